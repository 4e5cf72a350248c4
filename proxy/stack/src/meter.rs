//! # Meter of a balancer
//!
//! Job: what a balancer tells of itself: who waits and how long, what discovery changed, whether it fails
//! fast, how many endpoints are ready.
//! May touch: values. Must not touch: a metrics library. Callers: balancers tell; `observe` counts.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// Counts what happens to one balancer. Called on the way of requests: an implementation only adds.
pub trait Meter: Send + Sync + 'static {
    /// A request found an endpoint at once.
    fn passed(&self);
    /// A request begins to wait.
    fn queued(&self);
    /// It waits no more: it has an endpoint, failed, or was abandoned.
    fn unqueued(&self, waited: Duration);
    /// Discovery changed the set.
    fn updated(&self, update: Update);
    /// The gate opened after it was shut, or shut.
    fn gate(&self, open: bool);
    /// The balancer whose endpoints are to be told at scrape, while it lives.
    fn watch(&self, endpoints: Weak<dyn Endpoints>);
}

/// How discovery changed a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Update {
    /// The first set.
    Reset,
    /// Endpoints came or changed.
    Add,
    /// Endpoints left.
    Remove,
}

/// Tells how many endpoints can take requests now, without changing anything.
pub trait Endpoints: Send + Sync + 'static {
    /// The numbers.
    fn count(&self) -> Count;
}

/// Numbers of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that can take requests.
    pub ready: usize,
    /// Those that cannot yet, or not now.
    pub pending: usize,
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmetered;

/// A wait that is being counted; it ends on drop.
pub struct Waiting {
    meter: Arc<dyn Meter>,
    since: Instant,
}

impl Waiting {
    /// A request begins to wait.
    pub fn begin(meter: &Arc<dyn Meter>) -> Self {
        meter.queued();
        Self { meter: meter.clone(), since: Instant::now() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.meter.unqueued(self.since.elapsed());
    }
}

impl Meter for Unmetered {
    fn passed(&self) {}
    fn queued(&self) {}
    fn unqueued(&self, _: Duration) {}
    fn updated(&self, _: Update) {}
    fn gate(&self, _: bool) {}
    fn watch(&self, _: Weak<dyn Endpoints>) {}
}
