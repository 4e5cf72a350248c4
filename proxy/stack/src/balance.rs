//! # A balanced set
//!
//! Job: the members of one destination as discovery tells of them, the choice of one that is ready, and the
//! bounded wait for one. HTTP and TCP differ in what a member is, not in this.
//! May touch: clocks, random sources. Must not touch: what a member does. Callers: the balancers of HTTP and
//! of connections.

mod slots;

#[cfg(test)]
mod tests;

use self::slots::Slots;
use crate::{
    ewma::{Measure, Pending},
    gate::{FailFast, Gate},
    meter::{Count, Endpoints, Meter, Unmetered, Update, Waiting},
    queue::{Full, Queue},
    tried::Tried,
};
use arc_swap::ArcSwap;
use mesh_model::{
    balance::{Algorithm, Balancing},
    endpoint::{Endpoint, EndpointSet},
};
use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// An endpoint with what reaches it.
pub trait Member: Send + Sync + Sized + 'static {
    /// What a caller wants of a member.
    type Ask: Sync;

    /// Address and metadata.
    fn endpoint(&self) -> &Endpoint;
    /// Whether it can take such a call now. Starts what makes it ready.
    fn takes(self: &Arc<Self>, ask: &Self::Ask, now: Instant) -> bool;
    /// Whether it seems able to take calls; changes nothing.
    fn is_ready(&self, now: Instant) -> bool;
    /// When it may take calls again without anybody telling.
    fn resumes(&self) -> Option<Instant>;
    /// A caller waits.
    fn demand(&self);
    /// It is said to be well again: forget backoffs.
    fn reset_backoff(&self);
    /// Discovery has taken it away: finish what is under way.
    fn withdraw(&self);
}

/// Settings of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetParams {
    /// Choice and load.
    pub algorithm: Algorithm,
    /// What load is.
    pub measure: Measure,
    /// A new member's share grows over this time.
    pub slow_start: Duration,
    /// Callers that may wait.
    pub queue_capacity: usize,
    /// How long they may before all fail at once.
    pub failfast: Duration,
}

/// What members and callers of a set tell each other.
#[derive(Clone)]
pub struct Signals {
    /// A member has become ready, or failed to.
    pub changed: Arc<Notify>,
    /// Opened by members that become ready.
    pub gate: Arc<Gate>,
}

/// The members of a destination.
pub struct Set<M: Member> {
    slots: ArcSwap<Slots<M>>,
    /// Discovery has told of members, or that there are none.
    told: AtomicBool,
    turn: AtomicUsize,
    queue: Queue,
    signals: Signals,
    meter: Arc<dyn Meter>,
    params: SetParams,
}

/// A member that was chosen, and the call's place in its load.
#[derive(Debug)]
pub struct Picked<M> {
    /// The member.
    pub member: Arc<M>,
    /// Its load, until dropped.
    pub pending: Pending,
}

/// Why no member was chosen.
#[derive(Debug, PartialEq, Eq)]
pub enum Unready<E> {
    /// None became ready in time.
    FailFast(FailFast),
    /// Too many wait.
    Full(Full),
    /// A member says that waiting is of no use.
    Hopeless(E),
}

impl SetParams {
    /// For requests.
    pub fn requests(balancing: &Balancing, queue_capacity: usize, failfast: Duration) -> Self {
        let measure = match balancing.algorithm {
            Algorithm::PeakEwma => Measure::PeakEwma(balancing.ewma),
            Algorithm::LeastLoaded | Algorithm::RoundRobin => Measure::Pending,
        };
        let Balancing { algorithm, slow_start, .. } = *balancing;
        Self { algorithm, measure, slow_start, queue_capacity, failfast }
    }

    /// For connections: those that are open are the load, since the latency of a handshake says nothing of
    /// what follows.
    pub fn connections(balancing: &Balancing, queue_capacity: usize, failfast: Duration) -> Self {
        let measure = Measure::Pending;
        Self { measure, ..Self::requests(balancing, queue_capacity, failfast) }
    }
}

impl Signals {
    /// For a set whose callers wait for `failfast` at most.
    pub fn new(failfast: Duration, meter: &Arc<dyn Meter>) -> Self {
        let gate = Gate::new(failfast).metered(meter.clone());
        Self { changed: Arc::new(Notify::new()), gate: Arc::new(gate) }
    }
}

impl<M: Member> Set<M> {
    /// An empty set of which nothing is known. `signals` are shared with its members.
    pub fn new(params: SetParams, signals: Signals, meter: Arc<dyn Meter>) -> Arc<Self> {
        let set = Arc::new(Self {
            slots: ArcSwap::default(),
            told: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            queue: Queue::new(params.queue_capacity),
            signals,
            meter,
            params,
        });
        let watched: Arc<dyn Endpoints> = set.clone();
        set.meter.watch(Arc::downgrade(&watched));
        set
    }

    /// Without a meter.
    pub fn unmetered(params: SetParams) -> Arc<Self> {
        let meter: Arc<dyn Meter> = Arc::new(Unmetered);
        let signals = Signals::new(params.failfast, &meter);
        Self::new(params, signals, meter)
    }

    /// Whether a caller need not look for another set: something is ready or may become so in time. A set
    /// that is known to be empty is not worth a wait while there are others.
    pub fn is_available(&self) -> bool {
        let slots = self.slots.load();
        if slots.is_empty() {
            return !self.told.load(Relaxed);
        }
        !self.signals.gate.is_shut() || {
            let now = Instant::now();
            slots.members().any(|m| m.is_ready(now))
        }
    }

    /// Addresses of the members.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.slots.load().members().map(|m| m.endpoint().addr).collect()
    }

    /// The first thing that `find` finds in a member.
    pub fn find<T>(&self, find: impl FnMut(&Arc<M>) -> Option<T>) -> Option<T> {
        self.slots.load().members().find_map(find)
    }

    /// Members forget their backoffs.
    pub fn reset_backoff(&self) {
        self.slots.load().members().for_each(|m| m.reset_backoff());
        self.signals.changed.notify_waiters();
    }

    /// Brings the members in line with discovery. Those whose address and metadata stay are kept, with
    /// their load; a change of weight alone makes no new member. Those of which discovery has told anew
    /// forget their backoffs: they may have left and come back between two looks.
    pub fn apply(&self, set: &EndpointSet, make: impl FnMut(Endpoint) -> Arc<M>) {
        let before = self.slots.load_full();
        let change = before.next(set, &self.params, Instant::now(), make);
        self.slots.store(Arc::new(change.slots));
        if !self.told.swap(true, Relaxed) {
            self.meter.updated(Update::Reset);
        } else {
            if change.added {
                self.meter.updated(Update::Add);
            }
            if !change.gone.is_empty() {
                self.meter.updated(Update::Remove);
            }
        }
        change.gone.iter().for_each(|member| member.withdraw());
        change.again.iter().for_each(|member| member.reset_backoff());
        self.signals.changed.notify_waiters();
    }

    /// Takes all members away.
    pub fn clear(&self) {
        self.slots.swap(Arc::default()).members().for_each(|member| member.withdraw());
    }

    /// A member that takes the call now. One that the call has not tried if there is such, and never the
    /// one that it tried last while another is ready.
    pub fn pick(&self, ask: &M::Ask, tried: &Tried, now: Instant) -> Option<Picked<M>> {
        let slots = self.slots.load();
        let takes = |m: &Arc<M>| m.takes(ask, now);
        let choose = |other: &dyn Fn(SocketAddr) -> bool| {
            let turn = || self.turn.fetch_add(1, Relaxed);
            slots.choose(self.params.algorithm, turn, now, |m| other(m.endpoint().addr) && takes(m))
        };
        if tried.is_empty() {
            return choose(&|_| true);
        }
        choose(&|addr| !tried.contains(addr))
            .or_else(|| choose(&|addr| tried.last() != Some(addr)))
            .or_else(|| choose(&|_| true))
    }

    /// As [`Self::pick`], waiting for a member if need be. `hopeless` may end the wait. The caller opens the
    /// gate when the member proves to be well.
    ///
    /// # Errors
    /// When the wait is over, or too many wait.
    pub async fn acquire<E>(
        &self,
        ask: &M::Ask,
        tried: &Tried,
        hopeless: impl Fn(&Arc<M>) -> Option<E>,
    ) -> Result<Picked<M>, Unready<E>> {
        if let Some(picked) = self.pick(ask, tried, Instant::now()) {
            self.meter.passed();
            return Ok(picked);
        }
        let _place = self.queue.enter().map_err(Unready::Full)?;
        let _waiting = Waiting::begin(&self.meter);
        loop {
            let mut changed = pin!(self.signals.changed.notified());
            // Registered before looking again, so that no change is missed in between.
            changed.as_mut().enable();
            let now = Instant::now();
            if let Some(picked) = self.pick(ask, tried, now) {
                return Ok(picked);
            }
            let resume = self.resume(now, &hopeless).map_err(Unready::Hopeless)?;
            let deadline = self.signals.gate.unready(now).map_err(Unready::FailFast)?;
            let until = resume.map_or(deadline, |resume| resume.min(deadline));
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }

    /// Nothing is ready: asks the members to hurry; when it is worth looking again without news.
    fn resume<E>(
        &self,
        now: Instant,
        hopeless: impl Fn(&Arc<M>) -> Option<E>,
    ) -> Result<Option<Instant>, E> {
        let mut resume: Option<Instant> = None;
        for member in self.slots.load().members() {
            member.demand();
            if let Some(error) = hopeless(member) {
                return Err(error);
            }
            let at = member.resumes().filter(|at| *at > now);
            resume = [resume, at].into_iter().flatten().min();
        }
        Ok(resume)
    }

    /// What members and callers tell each other.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }
}

impl<M: Member> Endpoints for Set<M> {
    fn count(&self) -> Count {
        let (slots, now) = (self.slots.load(), Instant::now());
        let ready = slots.members().filter(|m| m.is_ready(now)).count();
        Count { ready, pending: slots.members().count() - ready }
    }
}
