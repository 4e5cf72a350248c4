//! # Bounded queue
//!
//! Job: a limit on how many callers may be inside; who comes beyond is turned away at once.
//! May touch: a semaphore. Must not touch: what callers do. Callers: servers, balancers.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for a number of callers.
#[derive(Clone, Debug)]
pub struct Queue(Arc<Semaphore>);

/// A place in a [`Queue`], given back on drop.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service unavailable")]
pub struct Full;

impl Queue {
    /// Room for `capacity` callers.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Semaphore::new(capacity.min(Semaphore::MAX_PERMITS))))
    }

    /// A place, if there is one.
    ///
    /// # Errors
    /// When all places are taken.
    pub fn enter(&self) -> Result<Permit, Full> {
        self.0.clone().try_acquire_owned().map(Permit).map_err(|_| Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: STACK-5
    #[test]
    fn a_full_queue_turns_away_until_a_place_is_given_back() {
        let queue = Queue::new(1);
        let place = queue.enter().unwrap();
        assert_eq!(queue.enter().unwrap_err(), Full);
        drop(place);
        assert!(queue.enter().is_ok());
    }
}
