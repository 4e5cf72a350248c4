//! # Fail-fast gate
//!
//! Job: how long callers may wait for something to become ready. After `timeout` without anything
//! ready the gate shuts: those who wait fail, newcomers fail at once, until something is ready.
//! May touch: an instant given by the caller. Must not touch: timers. Callers: balancers.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// A gate shared by all callers of one destination.
#[derive(Debug)]
pub struct Gate {
    timeout: Duration,
    state: Mutex<State>,
}

/// The gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service in fail-fast")]
pub struct FailFast;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Waiting { deadline: Instant },
    Shut,
}

impl Gate {
    /// An open gate that lets callers wait for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, state: Mutex::new(State::Open) }
    }

    /// A caller found nothing ready: until when it may wait.
    ///
    /// # Errors
    /// When the gate is shut, or shuts by this call because the deadline has passed.
    pub fn unready(&self, now: Instant) -> Result<Instant, FailFast> {
        let mut state = self.state.lock();
        *state = match *state {
            State::Open => State::Waiting { deadline: now + self.timeout },
            State::Waiting { deadline } if deadline <= now => State::Shut,
            other => other,
        };
        match *state {
            State::Waiting { deadline } => Ok(deadline),
            _ => Err(FailFast),
        }
    }

    /// Something is ready: opens the gate.
    pub fn ready(&self) {
        let mut state = self.state.lock();
        if *state != State::Open {
            *state = State::Open;
        }
    }

    /// Whether callers fail at once.
    pub fn is_shut(&self) -> bool {
        *self.state.lock() == State::Shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: STACK-3
    #[tokio::test(start_paused = true)]
    async fn shuts_after_the_timeout_and_reopens_when_ready() {
        let (second, start) = (Duration::from_secs(1), Instant::now());
        let gate = Gate::new(second * 3);
        assert_eq!(gate.unready(start), Ok(start + second * 3));
        assert_eq!(gate.unready(start + second), Ok(start + second * 3), "one deadline for all");
        assert!(!gate.is_shut());
        assert_eq!(gate.unready(start + second * 3), Err(FailFast));
        assert_eq!(gate.unready(start + second * 9), Err(FailFast));
        assert!(gate.is_shut());
        gate.ready();
        assert_eq!(gate.unready(start + second * 9), Ok(start + second * 12));
    }
}
