//! # Probe
//!
//! Job: decide from the outcomes of probe attempts whether a gateway is alive, and when the next
//! attempt starts. Pure: time comes in as values.
//! May touch: nothing. Must not touch: sockets (`driver.rs` does). Callers: `driver.rs`, tests.

pub mod dial;
pub mod driver;

use crate::Probe;
use std::time::Duration;
use tokio::time::Instant;

/// No attempt takes longer, whatever the Link says.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(1);
/// From the start of a failed attempt to the start of the next one.
const AFTER_FAILURE: Duration = Duration::from_millis(300);

/// Whether a gateway answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known yet.
    Unknown,
    /// The last attempts did not fail too often.
    Alive,
    /// As many attempts in a row failed as the Link allows.
    Dead,
}

/// Why an attempt failed: the step that did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// We cannot prove who we are yet: says nothing about the gateway.
    #[error("no certificate of our own yet: {0}")]
    Own(String),
    /// The gateway's name has no address.
    #[error("name: {0}")]
    Name(String),
    /// No TCP connection.
    #[error("TCP: {0}")]
    Tcp(String),
    /// TCP, but no TLS session.
    #[error("TLS: {0}")]
    Tls(String),
    /// TLS, but the peer does not prove the identity that the Link names.
    #[error("identity: {0}")]
    Identity(String),
    /// A proven peer that does not say 200.
    #[error("HTTP: {0}")]
    Http(String),
}

/// The state of a probe.
#[derive(Clone, Debug)]
pub struct Machine {
    period: Duration,
    timeout: Duration,
    threshold: u32,
    health: Health,
    /// Failures in a row.
    failures: u32,
    started: Option<Instant>,
    next: Instant,
}

impl Machine {
    /// Due at once.
    pub fn new(probe: &Probe, now: Instant) -> Self {
        Self {
            period: probe.period,
            timeout: probe.timeout.min(LONGEST_ATTEMPT),
            threshold: probe.threshold,
            health: Health::Unknown,
            failures: 0,
            started: None,
            next: now,
        }
    }

    /// What is known.
    pub fn health(&self) -> Health {
        self.health
    }

    /// When the next attempt starts.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// How long an attempt may take: the Link's timeout, at most 1 s.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// An attempt starts.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// The attempt ended; true if the health changed.
    pub fn ended(&mut self, now: Instant, failure: Option<&Failure>) -> bool {
        let started = self.started.unwrap_or(now);
        let before = self.health;
        match failure {
            None => {
                self.failures = 0;
                self.health = Health::Alive;
                self.next = (started + self.period).max(now);
            }
            Some(failure) => {
                if !matches!(failure, Failure::Own(_)) {
                    self.failures = self.failures.saturating_add(1);
                }
                if self.failures >= self.threshold {
                    self.health = Health::Dead;
                }
                self.next = (started + AFTER_FAILURE).max(now);
            }
        }
        self.health != before
    }

    /// The connection was closed between attempts: the next one starts at once, but not sooner after
    /// the previous one than a failed one would be followed.
    pub fn closed(&mut self, now: Instant) {
        let soonest = self.started.map_or(now, |s| s + AFTER_FAILURE);
        self.next = self.next.min(soonest.max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(start: Instant) -> Machine {
        let probe = Probe {
            path: "/ready".into(),
            port: std::num::NonZeroU16::new(4191).unwrap(),
            period: Duration::from_secs(3),
            timeout: Duration::from_secs(30),
            threshold: 3,
        };
        Machine::new(&probe, start)
    }

    fn failure() -> Failure {
        Failure::Tcp("refused".into())
    }

    struct Run {
        machine: Machine,
        start: Instant,
    }

    impl Run {
        fn new() -> Self {
            let start = Instant::now();
            Self { machine: machine(start), start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// An attempt from `start` to `end`; gives (changed, next start).
        fn attempt(&mut self, start: u64, end: u64, failure: Option<&Failure>) -> (bool, u128) {
            self.machine.started(self.at(start));
            let changed = self.machine.ended(self.at(end), failure);
            (changed, (self.machine.next() - self.start).as_millis())
        }
    }

    // proves: PRB-1, PRB-2
    #[test]
    fn failures_follow_each_other_quickly_up_to_the_threshold() {
        let mut run = Run::new();
        assert_eq!(run.machine.timeout(), Duration::from_secs(1));
        assert_eq!(run.attempt(0, 4, None), (true, 3000));
        assert_eq!(run.attempt(3000, 3002, Some(&failure())), (false, 3300));
        assert_eq!(
            run.attempt(3300, 4300, Some(&failure())),
            (false, 4300),
            "longer than the pause"
        );
        assert_eq!(run.machine.health(), Health::Alive);
        assert_eq!(run.attempt(4300, 4301, Some(&failure())), (true, 4600));
        assert_eq!(run.machine.health(), Health::Dead);
        assert_eq!(run.attempt(4600, 4601, Some(&failure())), (false, 4900));
        assert_eq!(run.attempt(4900, 4903, None), (true, 7900), "back at the first success");
    }

    // proves: PRB-3
    #[test]
    fn a_close_starts_an_attempt_at_once_but_never_a_storm() {
        let mut run = Run::new();
        run.attempt(0, 4, None);
        run.machine.closed(run.at(2000));
        assert_eq!(run.machine.next(), run.at(2000));
        run.attempt(2000, 2002, None);
        run.machine.closed(run.at(2003));
        assert_eq!(run.machine.next(), run.at(2300));
    }

    // proves: PRB-4
    #[test]
    fn a_gateway_that_never_answered_dies_too() {
        let mut run = Run::new();
        for (start, changed) in [(0, false), (300, false), (600, true)] {
            assert_eq!(run.attempt(start, start + 1, Some(&failure())).0, changed);
        }
        assert_eq!(run.machine.health(), Health::Dead);
    }

    // proves: PRB-4
    #[test]
    fn our_own_missing_certificate_says_nothing_about_the_gateway() {
        let mut run = Run::new();
        for start in [0, 300, 600, 900, 1200] {
            run.attempt(start, start + 1, Some(&Failure::Own("waiting".into())));
        }
        assert_eq!(run.machine.health(), Health::Unknown);
    }
}
