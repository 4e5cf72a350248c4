//! # Drain
//!
//! Job: tell every task that the process is going away, and wait until those that still work are done.
//! May touch: tokio channels. Must not touch: sockets, signals (`shutdown`).
//! Callers: binaries hold the [`Signal`]; servers and connections hold a [`Watch`].

use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Makes a connected pair: one [`Signal`], and a [`Watch`] to clone for each task.
pub fn channel() -> (Signal, Watch) {
    let (started, state) = watch::channel(false);
    let (alive, released) = mpsc::channel(1);
    (Signal { started, released }, Watch { state, _alive: alive })
}

/// Starts the drain and waits for its end. Dropping it without a drain also starts one.
#[derive(Debug)]
pub struct Signal {
    started: watch::Sender<bool>,
    released: mpsc::Receiver<()>,
}

/// Learns of the drain; while a clone of it lives, the drain is not over.
#[derive(Clone, Debug)]
pub struct Watch {
    state: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every watch was dropped within the grace period.
    Complete,
    /// The grace period ended while watches were still held.
    TimedOut,
}

impl Signal {
    /// Starts the drain without waiting.
    pub fn start(&self) {
        self.started.send_replace(true);
    }

    /// Starts the drain and waits until all watches are dropped, for at most `grace`.
    pub async fn drain(mut self, grace: Duration) -> Drained {
        self.start();
        match tokio::time::timeout(grace, self.released.recv()).await {
            Ok(_) => Drained::Complete,
            Err(_) => Drained::TimedOut,
        }
    }
}

impl Watch {
    /// Waits for the start of the drain and gives the watch back, so that its holder can keep the
    /// drain waiting while it finishes.
    pub async fn signaled(mut self) -> Self {
        // An error means that the signal is gone: the owner of the process's life has ended.
        let _ = self.state.wait_for(|started| *started).await;
        self
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.state.borrow() || self.state.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_held_watch_delays_the_end() {
        let (signal, watch) = channel();
        let task = tokio::spawn(async move {
            let held = watch.signaled().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(held);
        });
        let start = tokio::time::Instant::now();
        assert_eq!(signal.drain(Duration::from_secs(10)).await, Drained::Complete);
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn grace_bounds_the_wait() {
        let (signal, watch) = channel();
        assert!(!watch.is_draining());
        assert_eq!(signal.drain(Duration::from_secs(1)).await, Drained::TimedOut);
        assert!(watch.is_draining());
        watch.signaled().await;
    }

    #[tokio::test]
    async fn a_dropped_signal_counts_as_drain() {
        let (signal, watch) = channel();
        drop(signal);
        assert!(watch.is_draining());
        watch.signaled().await;
    }
}
