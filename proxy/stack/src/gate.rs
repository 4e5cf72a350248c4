//! # Fail-fast gate
//!
//! Job: how long callers may wait for something to become ready. After `timeout` without anything
//! ready the gate shuts: those who wait fail, newcomers fail at once, until something is ready.
//! May touch: an instant given by the caller. Must not touch: timers. Callers: balancers.

use crate::meter::{Meter, Unmetered};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A gate shared by all callers of one destination.
pub struct Gate {
    timeout: Duration,
    state: Mutex<State>,
    /// The state's kind, to be read without the lock.
    kind: AtomicU8,
    meter: Arc<dyn Meter>,
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

const OPEN: u8 = 0;
const WAITING: u8 = 1;
const SHUT: u8 = 2;

impl Gate {
    /// An open gate that lets callers wait for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let state = Mutex::new(State::Open);
        Self { timeout, state, kind: AtomicU8::new(OPEN), meter: Arc::new(Unmetered) }
    }

    /// Tells when it shuts and opens.
    #[must_use]
    pub fn metered(self, meter: Arc<dyn Meter>) -> Self {
        Self { meter, ..self }
    }

    /// A caller found nothing ready: until when it may wait.
    ///
    /// # Errors
    /// When the gate is shut, or shuts by this call because the deadline has passed.
    pub fn unready(&self, now: Instant) -> Result<Instant, FailFast> {
        let mut state = self.state.lock();
        match *state {
            State::Open => {
                let deadline = now + self.timeout;
                self.turn(&mut state, State::Waiting { deadline });
                Ok(deadline)
            }
            State::Waiting { deadline } if deadline <= now => {
                self.turn(&mut state, State::Shut);
                Err(FailFast)
            }
            State::Waiting { deadline } => Ok(deadline),
            State::Shut => Err(FailFast),
        }
    }

    /// Something is ready: opens the gate.
    pub fn ready(&self) {
        if self.kind.load(Relaxed) != OPEN {
            self.turn(&mut self.state.lock(), State::Open);
        }
    }

    /// Whether callers fail at once.
    pub fn is_shut(&self) -> bool {
        self.kind.load(Relaxed) == SHUT
    }

    fn turn(&self, state: &mut State, next: State) {
        let before = std::mem::replace(state, next);
        let kind = match next {
            State::Open => OPEN,
            State::Waiting { .. } => WAITING,
            State::Shut => SHUT,
        };
        self.kind.store(kind, Relaxed);
        let (was_shut, is_shut) = (before == State::Shut, next == State::Shut);
        if was_shut != is_shut {
            self.meter.gate(!is_shut);
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("state", &*self.state.lock()).finish_non_exhaustive()
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
        assert!(!gate.is_shut());
        assert_eq!(gate.unready(start + second * 9), Ok(start + second * 12));
    }
}
