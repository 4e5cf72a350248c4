//! # The certificate's state machine
//!
//! Job: from what is held and what happened, how long to wait. Pure.
//! May touch: values. Callers: the certifier.

use super::Renewal;
use std::time::{Duration, SystemTime};

/// What the workload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, after so many failures.
    Uncertified { failures: u32 },
    /// A certificate, good until `expiry`.
    Certified { expiry: SystemTime },
    /// A certificate whose renewal failed so many times in a row.
    Stale { expiry: SystemTime, failures: u32 },
}

impl State {
    pub(super) fn start(expiry: Option<SystemTime>) -> Self {
        match expiry {
            Some(expiry) => Self::Certified { expiry },
            None => Self::Uncertified { failures: 0 },
        }
    }

    pub(super) fn failed(self) -> Self {
        match self {
            Self::Uncertified { failures } => {
                Self::Uncertified { failures: failures.saturating_add(1) }
            }
            Self::Certified { expiry } => Self::Stale { expiry, failures: 1 },
            Self::Stale { expiry, failures } => {
                Self::Stale { expiry, failures: failures.saturating_add(1) }
            }
        }
    }

    /// The wait before the next attempt. Without a usable certificate it starts at 250 ms and doubles up
    /// to 1 s, after `EAGER` failures up to `min_refresh`; with one it is 70 % of what remains, within the bounds, and also within the
    /// certificate's life, so that a lower bound longer than that life cannot cause an outage.
    pub(super) fn wait(self, renewal: &Renewal, now: SystemTime) -> Duration {
        let (expiry, failures) = match self {
            Self::Uncertified { failures } => return backoff(failures, renewal),
            Self::Certified { expiry } => (expiry, 0),
            Self::Stale { expiry, failures } => (expiry, failures),
        };
        let remaining = expiry.duration_since(now).unwrap_or_default();
        if remaining.is_zero() {
            return backoff(failures, renewal);
        }
        let due = remaining.mul_f64(RENEW_AT);
        let wanted = due.max(renewal.min_refresh).min(renewal.max_refresh.max(renewal.min_refresh));
        if wanted < remaining { wanted } else { due.max(FIRST_RETRY) }
    }
}

fn backoff(failures: u32, renewal: &Renewal) -> Duration {
    let exponent = failures.saturating_sub(1).min(16);
    let most = if failures <= EAGER { EAGER_RETRY } else { renewal.min_refresh };
    FIRST_RETRY.saturating_mul(1 << exponent).min(most.max(FIRST_RETRY))
}

const RENEW_AT: f64 = 0.7;
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// A mesh that comes up: the identity service appears seconds after its clients, which should not wait
/// as long again.
const EAGER: u32 = 30;
const EAGER_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    // proves: TLS-5
    #[test]
    fn waits() {
        let now = SystemTime::UNIX_EPOCH + s(1_000_000);
        let renewal = Renewal::default();
        let certified = |left: u64| State::Certified { expiry: now + s(left) };
        let uncertified = |failures| State::Uncertified { failures };
        for (state, wait) in [
            (certified(100), s(70)),
            (certified(20), s(14)),
            // Renewal not before the lower bound.
            (certified(12), s(10)),
            // But within the certificate's life.
            (certified(5), Duration::from_millis(3500)),
            (certified(1_000_000), s(24 * 3600)),
            (certified(0).failed(), Duration::from_millis(250)),
            (certified(0).failed().failed(), Duration::from_millis(500)),
            (certified(100).failed(), s(70)),
            (uncertified(1), Duration::from_millis(250)),
            (uncertified(2), Duration::from_millis(500)),
            (uncertified(3), s(1)),
            (uncertified(30), s(1)),
            (uncertified(60), s(10)),
        ] {
            assert_eq!(state.wait(&renewal, now), wait, "{state:?}");
        }
    }

    #[test]
    fn a_failure_keeps_the_expiry() {
        let expiry = SystemTime::UNIX_EPOCH + s(5);
        let state = State::start(Some(expiry)).failed().failed();
        assert_eq!(state, State::Stale { expiry, failures: 2 });
    }
}
