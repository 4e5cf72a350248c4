//! # How a backend is balanced
//!
//! Job: which endpoint a balancer prefers, what a bad response costs an endpoint, and when an endpoint is
//! broken: the values behind the `balancer.*linkerd.io` annotations.
//! May touch: values. Must not touch: clocks, endpoints. Callers: the policy controller, `wire`, balancers.
//!
//! Ratios are whole millionths, so that these values can be compared.

use crate::outbound::PeakEwma;
use std::{str::FromStr, time::Duration};

/// How endpoints are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// Among those that are ready.
    pub algorithm: Algorithm,
    /// Latency estimate.
    pub ewma: PeakEwma,
    /// What a bad response costs; `None`: nothing.
    pub penalty: Option<Penalty>,
    /// A new endpoint's share grows over this time; zero: it has its full share at once.
    pub slow_start: Duration,
}

/// Which of the ready endpoints takes a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The better of two random ones, by latency times requests under way.
    #[default]
    PeakEwma,
    /// The better of two random ones, by requests under way.
    LeastLoaded,
    /// Each in turn.
    RoundRobin,
}

/// A text that names no algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no balancer; known are p2c-peak-ewma, p2c-least-loaded, round-robin")]
pub struct UnknownAlgorithm(String);

/// A bad response counts as if it had taken this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// At least.
    pub delay: Duration,
    /// What a response asks for (`retry-after`, `grpc-retry-pushback-ms`) counts up to this.
    pub max_retry_after: Duration,
}

/// When an endpoint is broken (`outbound.FailureAccrual`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accrual {
    /// What trips it.
    pub kind: AccrualKind,
    /// So many failures in a row trip it; 0: never.
    pub max_failures: u32,
    /// How long it is left alone.
    pub backoff: Probation,
    /// So many endpoints are never broken, however they behave; 0: all may be.
    pub min_ready: u32,
}

/// Which rules an accrual follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccrualKind {
    /// Failures in a row.
    Consecutive,
    /// Also a low success rate; responses that say "too many requests" count for the rate.
    Unified(Option<SuccessRate>),
}

/// Trips when the rate falls below a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Millionths, above 0, at most a million.
    pub threshold: u32,
    /// Over the last so much time, at least 10 ms.
    pub window: Duration,
    /// Not before so many requests in that time.
    pub min_requests: u32,
}

/// How long a broken endpoint is left alone: the first time `min`, then doubling up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probation {
    /// First time.
    pub min: Duration,
    /// Longest; at least `min`.
    pub max: Duration,
    /// Of each time, up to this much is added at random; millionths.
    pub jitter: u32,
    /// A `retry-after` of the response that tripped it is the first time, between `min` and `max`.
    pub respect_retry_after: bool,
}

/// One, in the unit of ratios.
pub const MILLION: u32 = 1_000_000;

impl Algorithm {
    /// As the annotation spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeakEwma => "p2c-peak-ewma",
            Self::LeastLoaded => "p2c-least-loaded",
            Self::RoundRobin => "round-robin",
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        [Self::PeakEwma, Self::LeastLoaded, Self::RoundRobin]
            .into_iter()
            .find(|a| a.as_str() == text.trim())
            .ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

impl Default for Penalty {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), max_retry_after: Duration::from_secs(300) }
    }
}

impl Accrual {
    /// Failures in a row, with Linkerd's usual numbers.
    pub fn consecutive() -> Self {
        let kind = AccrualKind::Consecutive;
        Self { kind, max_failures: 7, backoff: Probation::default(), min_ready: 0 }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { threshold: 800_000, window: Duration::from_secs(10), min_requests: 5 }
    }
}

impl Default for Probation {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: MILLION / 2,
            respect_retry_after: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_names() {
        for algorithm in [Algorithm::PeakEwma, Algorithm::LeastLoaded, Algorithm::RoundRobin] {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        }
        let error = "fastest".parse::<Algorithm>().expect_err("no such algorithm");
        assert!(error.to_string().contains("round-robin"));
    }
}
