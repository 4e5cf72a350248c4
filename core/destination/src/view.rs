//! # Views
//!
//! Job: what a subscriber sees: snapshots of endpoints, their filter for one client, and the difference
//! of two.
//! May touch: values. Must not touch: channels, gRPC, Kubernetes objects.
//! Callers: index (builds and publishes), serve (tells clients).

use crate::error::Refusal;
use mesh_model::endpoint::{DEFAULT_WEIGHT, Endpoint, EndpointMetadata, EndpointUpdate, Labels};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// What a subscriber sees: a value, or why there is none.
pub type View<T> = Result<Arc<T>, Refusal>;

/// The endpoints of one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By address.
    pub endpoints: BTreeMap<SocketAddr, Entry>,
    /// Labels of the whole set.
    pub labels: Labels,
    /// `internalTrafficPolicy: Local`: clients see their own node's endpoints only.
    pub local_only: bool,
}

/// One endpoint, without what depends on who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How to reach it, without zone labels.
    pub metadata: Arc<EndpointMetadata>,
    /// Zone, if known.
    pub zone: Option<Arc<str>>,
    /// Node, if it is a Pod.
    pub node: Option<Arc<str>>,
    /// Zones that should prefer it; empty without hints.
    pub for_zones: Arc<[String]>,
}

/// Who asks, as far as the answer depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its node.
    pub node: Option<Arc<str>>,
    /// Its node's zone.
    pub zone: Option<Arc<str>>,
    /// Endpoints in the client's zone weigh ten times as much.
    pub zone_weights: bool,
}

/// What one subscriber was told so far, and what to tell it next.
#[derive(Clone, Debug, Default)]
pub struct Told {
    client: Client,
    last: Arc<Snapshot>,
}

impl Told {
    /// Nothing told yet.
    pub fn new(client: Client) -> Self {
        Self { client, last: Arc::default() }
    }

    /// Labels to send with the set.
    pub fn labels(&self) -> &Labels {
        &self.last.labels
    }

    /// The updates that lead from what was told to `next`: at most one `Add`, then one `Remove`; neither
    /// is ever empty.
    pub fn advance(&mut self, next: &Arc<Snapshot>) -> Vec<EndpointUpdate> {
        let next = self.client.filter(next);
        if Arc::ptr_eq(&next, &self.last) {
            return Vec::new();
        }
        let last = std::mem::replace(&mut self.last, next);
        let relabelled = last.labels != self.last.labels;
        let differs = |addr: &SocketAddr, entry: &Entry| match last.endpoints.get(addr) {
            Some(old) => relabelled || old != entry,
            None => true,
        };
        let next = &self.last.endpoints;
        let added: Vec<_> = next
            .iter()
            .filter(|(addr, entry)| differs(addr, entry))
            .map(|(addr, entry)| self.client.endpoint(*addr, entry))
            .collect();
        let gone: Vec<_> =
            last.endpoints.keys().filter(|addr| !next.contains_key(addr)).copied().collect();
        let add = (!added.is_empty()).then_some(EndpointUpdate::Add(added));
        let remove = (!gone.is_empty()).then_some(EndpointUpdate::Remove(gone));
        add.into_iter().chain(remove).collect()
    }

    /// Takes back all that was told.
    pub fn withdraw(&mut self) -> Option<EndpointUpdate> {
        let last = std::mem::take(&mut self.last);
        let gone: Vec<_> = last.endpoints.keys().copied().collect();
        (!gone.is_empty()).then_some(EndpointUpdate::Remove(gone))
    }
}

impl Client {
    /// The endpoints that this client should use. Local traffic policy has no fallback; zone hints count
    /// only if every candidate has some, and only if any is left (Kubernetes' topology rules).
    fn filter(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        if snapshot.local_only {
            let here = |entry: &Entry| entry.node.is_some() && entry.node == self.node;
            return keep(snapshot, here);
        }
        let hinted = snapshot.endpoints.values().all(|e| !e.for_zones.is_empty());
        let Some(zone) = self.zone.as_deref().filter(|_| hinted) else { return snapshot.clone() };
        let for_us = |entry: &Entry| entry.for_zones.iter().any(|z| z == zone);
        match snapshot.endpoints.values().any(for_us) {
            true => keep(snapshot, for_us),
            false => snapshot.clone(),
        }
    }

    fn endpoint(&self, addr: SocketAddr, entry: &Entry) -> Endpoint {
        // Addresses outside the cluster (gateways) have no zone to compare.
        if entry.node.is_none() && entry.zone.is_none() {
            return Endpoint { addr, metadata: entry.metadata.clone() };
        }
        let same = entry.zone.is_some() && entry.zone == self.zone;
        let locality = match (&entry.zone, &self.zone) {
            (Some(_), Some(_)) if same => "local",
            (Some(_), Some(_)) => "remote",
            _ => "unknown",
        };
        let mut metadata = (*entry.metadata).clone();
        let labels = Arc::make_mut(&mut metadata.labels);
        if let Some(zone) = &entry.zone {
            labels.insert("zone".to_owned(), zone.to_string());
        }
        labels.insert("zone_locality".to_owned(), locality.to_owned());
        if self.zone_weights && same {
            metadata.weight = 10 * DEFAULT_WEIGHT;
        }
        Endpoint { addr, metadata: Arc::new(metadata) }
    }
}

fn keep(snapshot: &Arc<Snapshot>, wanted: impl Fn(&Entry) -> bool) -> Arc<Snapshot> {
    if snapshot.endpoints.values().all(&wanted) {
        return snapshot.clone();
    }
    let kept = snapshot.endpoints.iter().filter(|(_, e)| wanted(e));
    Arc::new(Snapshot {
        endpoints: kept.map(|(addr, e)| (*addr, e.clone())).collect(),
        ..(**snapshot).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(zone: &str, node: &str, hints: &[&str]) -> Entry {
        Entry {
            metadata: Arc::new(EndpointMetadata { weight: DEFAULT_WEIGHT, ..Default::default() }),
            zone: Some(zone.into()),
            node: Some(node.into()),
            for_zones: hints.iter().map(|h| (*h).to_owned()).collect(),
        }
    }

    fn snapshot(entries: &[(&str, Entry)]) -> Arc<Snapshot> {
        let endpoints = entries.iter().map(|(a, e)| (a.parse().unwrap(), e.clone())).collect();
        Arc::new(Snapshot { endpoints, ..Snapshot::default() })
    }

    fn client(node: &str, zone: &str) -> Client {
        Client { node: Some(node.into()), zone: Some(zone.into()), zone_weights: true }
    }

    fn added(updates: &[EndpointUpdate]) -> Vec<(String, String, u32)> {
        let mut all = Vec::new();
        for update in updates {
            if let EndpointUpdate::Add(endpoints) = update {
                all.extend(endpoints.iter().map(|e| {
                    let locality = e.metadata.labels["zone_locality"].clone();
                    (e.addr.to_string(), locality, e.metadata.weight)
                }));
            }
        }
        all
    }

    // proves: DST-2
    #[test]
    fn a_burst_is_one_add_and_one_remove() {
        let mut told = Told::new(Client::default());
        let a = ("10.0.0.1:1", entry("a", "n", &[]));
        let b = ("10.0.0.2:1", entry("a", "n", &[]));
        let c = ("10.0.0.3:1", entry("a", "n", &[]));
        assert_eq!(told.advance(&snapshot(&[])), vec![], "an empty set sends nothing");
        assert_eq!(added(&told.advance(&snapshot(&[a.clone(), b.clone()]))).len(), 2);
        assert_eq!(told.advance(&snapshot(&[a.clone(), b.clone()])), vec![]);
        let updates = told.advance(&snapshot(&[b, c]));
        assert_eq!(added(&updates)[0].0, "10.0.0.3:1");
        let gone = vec!["10.0.0.1:1".parse().unwrap()];
        assert_eq!(updates[1..], [EndpointUpdate::Remove(gone)]);
        assert!(matches!(told.withdraw(), Some(EndpointUpdate::Remove(all)) if all.len() == 2));
        assert_eq!(told.withdraw(), None);
    }

    #[test]
    fn zones_label_and_weigh() {
        let mut told = Told::new(client("n", "a"));
        let set = snapshot(&[
            ("10.0.0.1:1", entry("a", "n", &[])),
            ("10.0.0.2:1", entry("b", "m", &["a"])),
        ]);
        assert_eq!(
            added(&told.advance(&set)),
            [
                ("10.0.0.1:1".into(), "local".into(), 100_000),
                ("10.0.0.2:1".into(), "remote".into(), 10_000)
            ]
        );
    }

    #[test]
    fn hints_and_local_policy_narrow() {
        let set = snapshot(&[
            ("10.0.0.1:1", entry("a", "n", &["a"])),
            ("10.0.0.2:1", entry("b", "m", &["b", "c"])),
        ]);
        let seen =
            |client: Client, set: &Arc<Snapshot>| added(&Told::new(client).advance(set)).len();
        assert_eq!(seen(client("n", "c"), &set), 1);
        assert_eq!(seen(client("n", "z"), &set), 2, "nothing hinted here: use all");
        assert_eq!(seen(Client::default(), &set), 2);
        let local = Arc::new(Snapshot { local_only: true, ..(*set).clone() });
        assert_eq!(seen(client("n", "c"), &local), 1);
        assert_eq!(seen(client("x", "a"), &local), 0, "no fallback");
        assert_eq!(seen(Client::default(), &local), 0);
    }
}
