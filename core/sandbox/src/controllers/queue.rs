//! # Work queue
//!
//! Job: which keys need a look. A key is worked on by one worker at a time, a key that is touched meanwhile
//! comes back once, and a failed one comes back after a short, growing pause.
//! May touch: memory, the timer. Must not touch: the API. Callers: the controllers.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Pause after the first failure of a key, doubled with each further one.
const RETRY_MIN: Duration = Duration::from_millis(5);
/// Longest pause between two attempts at a failing key.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A set of keys to work on, in order of arrival.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    waiting: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    working: HashSet<K>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Send + 'static> Queue<K> {
    /// An empty queue.
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), waiting: Notify::new() })
    }

    /// Asks for a look at `key`.
    pub(crate) fn touch(&self, key: K) {
        let mut state = self.state.lock();
        if state.queued.insert(key.clone()) && !state.working.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.waiting.notify_one();
        }
    }

    /// Asks for a look at `key` after a pause.
    pub(crate) fn touch_after(self: &Arc<Self>, key: K, pause: Duration) {
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            queue.touch(key);
        });
    }

    /// The next key; `done` must be called with it.
    pub(crate) async fn next(&self) -> K {
        loop {
            let waiting = self.waiting.notified();
            if let Some(key) = self.pop() {
                return key;
            }
            waiting.await;
        }
    }

    /// Ends the work on `key`; after a failure it comes back by itself.
    pub(crate) fn done(self: &Arc<Self>, key: K, succeeded: bool) {
        let pause = {
            let mut state = self.state.lock();
            state.working.remove(&key);
            if state.queued.contains(&key) {
                state.ready.push_back(key.clone());
                self.waiting.notify_one();
            }
            if succeeded {
                state.failures.remove(&key);
                return;
            }
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            (RETRY_MIN * 2u32.saturating_pow((*failures - 1).min(16))).min(RETRY_MAX)
        };
        self.touch_after(key, pause);
    }

    fn pop(&self) -> Option<K> {
        let mut state = self.state.lock();
        let key = state.ready.pop_front()?;
        state.queued.remove(&key);
        state.working.insert(key.clone());
        if !state.ready.is_empty() {
            self.waiting.notify_one();
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time() {
        let queue = Queue::new();
        queue.touch(1);
        queue.touch(1);
        assert_eq!(queue.next().await, 1);
        queue.touch(1);
        assert!(queue.pop().is_none(), "still worked on");
        queue.done(1, true);
        assert_eq!(queue.pop(), Some(1));
        queue.done(1, true);
        assert!(queue.pop().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_and_later() {
        let queue = Queue::new();
        queue.touch("k");
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let start = tokio::time::Instant::now();
            let key = queue.next().await;
            pauses.push(start.elapsed());
            queue.done(key, false);
        }
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(pauses[9] <= RETRY_MAX + Duration::from_millis(2));
    }
}
