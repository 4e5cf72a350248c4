//! # Readiness
//!
//! Job: say whether the process can serve, and what it still waits for.
//! May touch: memory. Must not touch: HTTP (`admin` answers). Callers: every room that must be ready
//! before traffic comes: watches, certificates, listeners.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

/// The process's readiness. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Inner>);

/// Holds readiness back until dropped.
#[derive(Debug)]
pub struct ReadyToken {
    inner: Arc<Inner>,
    id: u64,
}

/// What `/ready` should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Something still blocks.
    Waiting,
    /// Nothing blocks.
    Ready,
    /// The process is going away; final.
    Draining,
}

#[derive(Debug)]
struct Inner {
    blocks: Mutex<Blocks>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Blocks {
    next: u64,
    held: Vec<(u64, String)>,
    draining: bool,
}

impl Readiness {
    /// Ready until something blocks.
    pub fn new() -> Self {
        Self(Arc::new(Inner { blocks: Mutex::default(), state: watch::Sender::new(State::Ready) }))
    }

    /// Holds readiness back until the token is dropped; `what` is named in logs and by
    /// [`waiting_for`](Self::waiting_for).
    #[must_use = "dropping the token unblocks at once"]
    pub fn block(&self, what: impl Into<String>) -> ReadyToken {
        let mut blocks = self.0.blocks.lock();
        let id = blocks.next;
        blocks.next += 1;
        blocks.held.push((id, what.into()));
        self.0.publish(&blocks);
        ReadyToken { inner: self.0.clone(), id }
    }

    /// Whether nothing blocks and no drain has begun.
    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// The state now.
    pub fn state(&self) -> State {
        *self.0.state.borrow()
    }

    /// From now on the process is not ready, whatever blocks or unblocks.
    pub fn set_draining(&self) {
        let mut blocks = self.0.blocks.lock();
        blocks.draining = true;
        self.0.publish(&blocks);
    }

    /// What blocks, oldest first.
    pub fn waiting_for(&self) -> Vec<String> {
        self.0.blocks.lock().held.iter().map(|(_, what)| what.clone()).collect()
    }

    /// The state as it changes.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.0.state.subscribe()
    }

    /// Waits until the process is ready; also returns when a drain begins.
    pub async fn ready(&self) {
        let mut state = self.subscribe();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|s| *s != State::Waiting).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn publish(&self, blocks: &Blocks) {
        let state = match (blocks.draining, blocks.held.is_empty()) {
            (true, _) => State::Draining,
            (false, true) => State::Ready,
            (false, false) => State::Waiting,
        };
        self.state.send_if_modified(|s| std::mem::replace(s, state) != state);
    }
}

impl Drop for ReadyToken {
    fn drop(&mut self) {
        let mut blocks = self.inner.blocks.lock();
        blocks.held.retain(|(id, _)| *id != self.id);
        self.inner.publish(&blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_token_is_gone() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (a, b) = (readiness.block("pods"), readiness.block("services"));
        drop(a);
        assert_eq!(readiness.waiting_for(), ["services"]);
        assert!(!readiness.is_ready());
        drop(b);
        assert!(readiness.is_ready());
    }

    #[test]
    fn draining_is_final() {
        let readiness = Readiness::new();
        let token = readiness.block("x");
        readiness.set_draining();
        drop(token);
        assert_eq!(readiness.state(), State::Draining);
    }
}
