//! # Members and their shares
//!
//! Job: one snapshot of a set: each member's load and share, and the choice by algorithm. Shares differ by
//! the weights of discovery, and while new members warm up.
//! May touch: a random source, an instant given by the caller. Callers: the set.

use super::{Member, Picked, SetParams};
use crate::{ewma::Load, p2c};
use mesh_model::{
    balance::Algorithm,
    endpoint::{DEFAULT_WEIGHT, Endpoint, EndpointMetadata, EndpointSet},
};
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// A member with what the choice looks at.
struct Slot<M> {
    member: Arc<M>,
    /// As discovery told last: an endpoint that was away and is back is told anew, though nothing of it changed.
    told: Arc<EndpointMetadata>,
    load: Arc<Load>,
    weight: u32,
    /// Warms up since then.
    joined: Option<Instant>,
}

/// Members in the order of their addresses.
pub(super) struct Slots<M> {
    all: Vec<Slot<M>>,
    heaviest: u32,
    /// All weights are equal.
    even: bool,
    /// Until then some member warms up.
    warm: Option<Instant>,
    slow_start: Duration,
}

/// A new snapshot, and how it differs.
pub(super) struct Change<M> {
    pub(super) slots: Slots<M>,
    pub(super) gone: Vec<Arc<M>>,
    /// Those that stay and were told anew.
    pub(super) again: Vec<Arc<M>>,
    pub(super) added: bool,
}

/// The share of a member that has just joined: enough to learn its latency by.
const COLDEST: f64 = 0.1;

impl<M> Default for Slots<M> {
    fn default() -> Self {
        Self { all: Vec::new(), heaviest: 1, even: true, warm: None, slow_start: Duration::ZERO }
    }
}

impl<M: Member> Slots<M> {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Arc<M>> {
        self.all.iter().map(|slot| &slot.member)
    }

    /// The snapshot after discovery's news.
    pub(super) fn next(
        &self,
        set: &EndpointSet,
        params: &SetParams,
        now: Instant,
        mut make: impl FnMut(Endpoint) -> Arc<M>,
    ) -> Change<M> {
        let mut kept: HashMap<SocketAddr, &Slot<M>> =
            self.all.iter().map(|slot| (slot.member.endpoint().addr, slot)).collect();
        // Where all are new there is nobody to take the load off them.
        let warms = !params.slow_start.is_zero()
            && set.iter().any(|(addr, metadata)| keeps(kept.get(addr), metadata).is_some());
        let (mut added, mut again) = (false, Vec::new());
        let mut slot = |(addr, metadata): (&SocketAddr, &Arc<EndpointMetadata>)| {
            let weight = weight(metadata);
            if let Some(slot) = keeps(kept.get(addr), metadata) {
                if !Arc::ptr_eq(&slot.told, metadata) {
                    again.push(slot.member.clone());
                }
                let slot = Slot { weight, told: metadata.clone(), ..slot.clone() };
                kept.remove(addr);
                return slot;
            }
            added = true;
            let member = make(Endpoint { addr: *addr, metadata: metadata.clone() });
            let load = Arc::new(Load::new(params.measure, now));
            let told = metadata.clone();
            Slot { member, told, load, weight, joined: warms.then_some(now) }
        };
        let all: Vec<_> = set.iter().map(&mut slot).collect();
        let gone = kept.into_values().map(|slot| slot.member.clone()).collect();
        Change { slots: Self::of(all, params.slow_start), gone, again, added }
    }

    fn of(all: Vec<Slot<M>>, slow_start: Duration) -> Self {
        let heaviest = all.iter().map(|slot| slot.weight).max().unwrap_or(1);
        let even = all.iter().all(|slot| slot.weight == heaviest);
        let warm = all.iter().filter_map(|slot| Some(slot.joined? + slow_start)).max();
        Self { all, heaviest, even, warm, slow_start }
    }

    /// A member that is ready.
    pub(super) fn choose(
        &self,
        algorithm: Algorithm,
        turn: impl Fn() -> usize,
        now: Instant,
        ready: impl Fn(&Arc<M>) -> bool,
    ) -> Option<Picked<M>> {
        let ready = |slot: &Slot<M>| ready(&slot.member);
        let load = |slot: &Slot<M>| slot.load.value(now);
        let share = |slot: &Slot<M>| self.share(slot, now);
        let even = self.even && self.warm.is_none_or(|until| until <= now);
        let slot = match (algorithm, even) {
            (Algorithm::RoundRobin, true) => p2c::turn(&self.all, turn(), ready),
            (Algorithm::RoundRobin, false) => {
                p2c::draw(&self.all, &mut rand::rng(), &ready, &share)
            }
            (Algorithm::PeakEwma | Algorithm::LeastLoaded, true) => {
                p2c::pick(&self.all, &mut rand::rng(), ready, load)
            }
            (Algorithm::PeakEwma | Algorithm::LeastLoaded, false) => {
                p2c::pick_by_share(&self.all, &mut rand::rng(), ready, load, share)
            }
        }?;
        Some(Picked { member: slot.member.clone(), pending: slot.load.begin(now) })
    }

    /// Of the heaviest member's, in 0 to 1.
    fn share(&self, slot: &Slot<M>, now: Instant) -> f64 {
        let weight = f64::from(slot.weight) / f64::from(self.heaviest);
        let Some(joined) = slot.joined.filter(|_| !self.slow_start.is_zero()) else {
            return weight;
        };
        let age = now.saturating_duration_since(joined).as_secs_f64();
        weight * (age / self.slow_start.as_secs_f64()).clamp(COLDEST, 1.0)
    }
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self {
            member: self.member.clone(),
            told: self.told.clone(),
            load: self.load.clone(),
            weight: self.weight,
            joined: self.joined,
        }
    }
}

/// The slot, if its member serves the new metadata as well.
fn keeps<'a, M: Member>(
    slot: Option<&&'a Slot<M>>,
    metadata: &Arc<EndpointMetadata>,
) -> Option<&'a Slot<M>> {
    slot.copied().filter(|slot| slot.member.endpoint().metadata.serves(metadata))
}

/// A controller that says nothing of weights leaves zero.
fn weight(metadata: &EndpointMetadata) -> u32 {
    match metadata.weight {
        0 => DEFAULT_WEIGHT,
        weight => weight,
    }
}
