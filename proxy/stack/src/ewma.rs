//! # Peak-EWMA load
//!
//! Job: how loaded a peer seems: a latency estimate that jumps up at once and comes down slowly, times
//! the number of requests under way. The estimate punishes a slow peer immediately, and lets it
//! earn trust back over `decay`; the product keeps a burst from piling onto the fastest one.
//! May touch: numbers, an instant given by the caller. Must not touch: the clock.
//! Callers: balancers.

use mesh_model::outbound::PeakEwma;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The load of one peer. Shared by its requests.
#[derive(Debug)]
pub struct Load {
    decay_ns: f64,
    estimate: Mutex<Estimate>,
    pending: AtomicU32,
}

/// A request under way. Dropping it ends the request; [`Pending::complete`] also takes its latency.
#[derive(Debug)]
pub struct Pending {
    load: Arc<Load>,
    started: Instant,
}

#[derive(Debug)]
struct Estimate {
    rtt_ns: f64,
    at: Instant,
}

impl Load {
    /// A peer of which nothing is known yet.
    pub fn new(params: PeakEwma, now: Instant) -> Self {
        let rtt = params.default_rtt.max(Duration::from_millis(1));
        Self {
            decay_ns: (params.decay.as_nanos() as f64).max(1.0),
            estimate: Mutex::new(Estimate { rtt_ns: rtt.as_nanos() as f64, at: now }),
            pending: AtomicU32::new(0),
        }
    }

    /// The load now: estimate, decayed since the last sample, times requests under way plus one.
    pub fn value(&self, now: Instant) -> f64 {
        let estimate = {
            let estimate = self.estimate.lock();
            estimate.rtt_ns * weight(&estimate, now, self.decay_ns)
        };
        estimate * f64::from(self.pending.load(Ordering::Relaxed).saturating_add(1))
    }

    /// Counts a request that starts now.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Pending {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Pending { load: self.clone(), started: now }
    }

    /// Requests under way.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    fn record(&self, sample: Duration, now: Instant) {
        let sample = sample.as_nanos() as f64;
        let mut estimate = self.estimate.lock();
        estimate.rtt_ns = if sample > estimate.rtt_ns {
            sample
        } else {
            let weight = weight(&estimate, now, self.decay_ns);
            estimate.rtt_ns * weight + sample * (1.0 - weight)
        };
        estimate.at = now;
    }
}

impl Pending {
    /// Ends the request and takes its latency as a sample.
    pub fn complete(self, now: Instant) {
        self.load.record(now.saturating_duration_since(self.started), now);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.load.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

fn weight(estimate: &Estimate, now: Instant, decay_ns: f64) -> f64 {
    let elapsed = now.saturating_duration_since(estimate.at).as_nanos() as f64;
    (-elapsed / decay_ns).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn load(now: Instant) -> Arc<Load> {
        Arc::new(Load::new(PeakEwma { default_rtt: MS * 30, decay: MS * 10_000 }, now))
    }

    // proves: STACK-4
    #[tokio::test(start_paused = true)]
    async fn peaks_count_at_once_and_lower_samples_slowly() {
        let now = Instant::now();
        let load = load(now);
        load.begin(now).complete(now + MS * 300);
        assert_eq!(load.value(now + MS * 300), 300e6);
        load.begin(now + MS * 300).complete(now + MS * 301);
        let after = load.value(now + MS * 301);
        assert!(after > 299e6 && after < 300e6, "{after}");
        assert!(load.value(now + MS * 60_000) < 2e6, "an unused estimate fades");
    }

    // proves: STACK-4
    #[tokio::test(start_paused = true)]
    async fn requests_under_way_multiply() {
        let now = Instant::now();
        let load = load(now);
        let idle = load.value(now);
        let (a, _b) = (load.begin(now), load.begin(now));
        assert_eq!(load.value(now), idle * 3.0);
        drop(a);
        assert_eq!(load.pending(), 1);
    }
}
