//! # Exponential backoff
//!
//! Job: how long to wait before the n-th attempt at something that failed.
//! May touch: numbers and a random source. Must not touch: timers (the caller sleeps).
//! Callers: reconnects, discovery streams, probes.

use rand::RngExt;
use std::time::Duration;

/// The shape of a backoff: the n-th delay is `min(max, min * 2^n)` plus a uniform jitter of up to
/// `jitter` times that, never above `max`. There is no limit on attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter: f64,
}

/// Why three numbers do not form a backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// The first delay is longer than the longest.
    #[error("the minimal delay must not be above the maximal one")]
    MinAboveMax,
    /// The longest delay is zero.
    #[error("the maximal delay must be above zero")]
    ZeroMax,
    /// The ratio is negative, above 100, or no number.
    #[error("the jitter must lie between 0 and 100")]
    Jitter,
}

/// Where one series of attempts stands.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    backoff: Backoff,
    failures: u32,
}

impl Backoff {
    /// What Linkerd uses toward peers: 100 ms to 60 s, jitter a tenth.
    pub const OUTBOUND: Self =
        Self { min: Duration::from_millis(100), max: Duration::from_secs(60), jitter: 0.1 };
    /// What Linkerd uses toward the application: 100 ms to 10 s, jitter a tenth.
    pub const INBOUND: Self =
        Self { min: Duration::from_millis(100), max: Duration::from_secs(10), jitter: 0.1 };

    /// A checked backoff.
    ///
    /// # Errors
    /// When the numbers are out of bounds.
    pub fn new(min: Duration, max: Duration, jitter: f64) -> Result<Self, InvalidBackoff> {
        if min > max {
            return Err(InvalidBackoff::MinAboveMax);
        }
        if max.is_zero() {
            return Err(InvalidBackoff::ZeroMax);
        }
        if !(0.0..=100.0).contains(&jitter) {
            return Err(InvalidBackoff::Jitter);
        }
        Ok(Self { min, max, jitter })
    }

    /// A new series of attempts.
    pub fn attempts(self) -> Attempts {
        Attempts { backoff: self, failures: 0 }
    }

    fn delay(self, failures: u32, chance: f64) -> Duration {
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let base = self.min.saturating_mul(factor).min(self.max);
        let jitter = Duration::try_from_secs_f64(base.as_secs_f64() * self.jitter * chance);
        base.saturating_add(jitter.unwrap_or(self.max)).min(self.max)
    }
}

impl Attempts {
    /// The delay after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.backoff.delay(self.failures, rand::rng().random::<f64>());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Forgets the failures: something worked, or is known to work again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: STACK-2
    #[test]
    fn doubles_up_to_the_maximum_and_never_beyond() {
        let ms = Duration::from_millis;
        let backoff = Backoff::new(ms(100), ms(1000), 0.5).unwrap();
        assert_eq!(backoff.delay(0, 0.0), ms(100));
        assert_eq!(backoff.delay(2, 0.0), ms(400));
        assert_eq!(backoff.delay(2, 1.0), ms(600));
        assert_eq!(backoff.delay(4, 1.0), ms(1000));
        assert_eq!(backoff.delay(u32::MAX, 1.0), ms(1000));
    }

    // proves: STACK-2
    #[test]
    fn reset_starts_over() {
        let mut attempts =
            Backoff::new(Duration::from_millis(1), Duration::from_secs(1), 0.0).unwrap().attempts();
        assert_eq!(attempts.next_delay(), Duration::from_millis(1));
        assert_eq!(attempts.next_delay(), Duration::from_millis(2));
        attempts.reset();
        assert_eq!(attempts.next_delay(), Duration::from_millis(1));
    }

    #[test]
    fn bad_numbers_are_refused() {
        let s = Duration::from_secs;
        assert_eq!(Backoff::new(s(2), s(1), 0.0), Err(InvalidBackoff::MinAboveMax));
        assert_eq!(Backoff::new(s(0), s(0), 0.0), Err(InvalidBackoff::ZeroMax));
        assert_eq!(Backoff::new(s(0), s(1), 101.0), Err(InvalidBackoff::Jitter));
        assert_eq!(Backoff::new(s(0), s(1), f64::NAN), Err(InvalidBackoff::Jitter));
    }
}
