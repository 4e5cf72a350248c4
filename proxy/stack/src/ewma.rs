//! # Load of a peer
//!
//! Job: how loaded a peer seems. By peak EWMA: a latency estimate that jumps up at once and comes down
//! slowly, times the number of calls under way. The estimate punishes a slow peer immediately, and lets it
//! earn trust back over `decay`; the product keeps a burst from piling onto the fastest one. Or by the
//! number of calls alone.
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

/// The load of one peer. Shared by its calls.
#[derive(Debug)]
pub struct Load {
    measure: Measure,
    estimate: Mutex<Estimate>,
    pending: AtomicU32,
}

/// What load means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Latency times calls under way.
    PeakEwma(PeakEwma),
    /// Calls under way.
    Pending,
}

/// A call under way. Dropping it ends the call.
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
    pub fn new(measure: Measure, now: Instant) -> Self {
        let rtt = match measure {
            Measure::PeakEwma(ewma) => ewma.default_rtt.max(Duration::from_millis(1)),
            Measure::Pending => Duration::ZERO,
        };
        Self {
            measure,
            estimate: Mutex::new(Estimate { rtt_ns: rtt.as_nanos() as f64, at: now }),
            pending: AtomicU32::new(0),
        }
    }

    /// The load now: the estimate, decayed since the last sample, times calls under way plus one; or these
    /// alone.
    pub fn value(&self, now: Instant) -> f64 {
        let calls = f64::from(self.pending().saturating_add(1));
        match self.measure {
            Measure::Pending => calls,
            Measure::PeakEwma(ewma) => self.estimate.lock().value(now, ewma) * calls,
        }
    }

    /// Counts a call that starts now.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Pending {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Pending { load: self.clone(), started: now }
    }

    /// Calls under way.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    fn record(&self, sample: Duration, now: Instant) {
        let Measure::PeakEwma(ewma) = self.measure else { return };
        let sample = sample.as_nanos() as f64;
        let mut estimate = self.estimate.lock();
        estimate.rtt_ns = if sample > estimate.rtt_ns {
            sample
        } else {
            let weight = estimate.weight(now, ewma);
            estimate.rtt_ns * weight + sample * (1.0 - weight)
        };
        estimate.at = now;
    }

    /// Never less than what the peer seems to take now.
    fn penalize(&self, penalty: Duration, now: Instant) {
        let Measure::PeakEwma(ewma) = self.measure else { return };
        let mut estimate = self.estimate.lock();
        let present = estimate.value(now, ewma);
        *estimate = Estimate { rtt_ns: present.max(penalty.as_nanos() as f64), at: now };
    }
}

impl Pending {
    /// Takes the time since the start as a sample of latency. The call goes on.
    pub fn sample(&self, now: Instant) {
        self.load.record(now.saturating_duration_since(self.started), now);
    }

    /// Ends the call, with its latency as a sample.
    pub fn complete(self, now: Instant) {
        self.sample(now);
    }

    /// Ends the call as a bad one, that seems to have taken at least `penalty`.
    pub fn penalize(self, penalty: Duration, now: Instant) {
        self.load.penalize(penalty, now);
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.load.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Estimate {
    fn value(&self, now: Instant, ewma: PeakEwma) -> f64 {
        self.rtt_ns * self.weight(now, ewma)
    }

    fn weight(&self, now: Instant, ewma: PeakEwma) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_nanos() as f64;
        (-elapsed / (ewma.decay.as_nanos() as f64).max(1.0)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn load(now: Instant) -> Arc<Load> {
        let ewma = PeakEwma { default_rtt: MS * 30, decay: MS * 10_000 };
        Arc::new(Load::new(Measure::PeakEwma(ewma), now))
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
    async fn calls_under_way_multiply() {
        let now = Instant::now();
        let load = load(now);
        let idle = load.value(now);
        let (a, _b) = (load.begin(now), load.begin(now));
        assert_eq!(load.value(now), idle * 3.0);
        drop(a);
        assert_eq!(load.pending(), 1);
        let counted = Arc::new(Load::new(Measure::Pending, now));
        let call = counted.begin(now);
        assert_eq!(counted.value(now), 2.0);
        call.complete(now + MS * 1000);
        assert_eq!(counted.value(now), 1.0, "latency does not count");
    }

    // proves: BAL-8
    #[tokio::test(start_paused = true)]
    async fn a_penalty_raises_the_estimate_and_never_lowers_it() {
        let now = Instant::now();
        let load = load(now);
        load.begin(now).penalize(MS * 5000, now);
        assert_eq!(load.value(now), 5e9);
        load.begin(now).penalize(MS, now + MS * 10);
        assert!(load.value(now + MS * 10) > 4.9e9);
        assert!(load.value(now + MS * 60_000) < 20e6, "it fades");
    }
}
