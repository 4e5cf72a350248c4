//! # Requeue
//!
//! Job: work on keys until it lands: each key once at a time, retried with exponential backoff.
//! May touch: the clock. Must not touch: what a key stands for.
//! Callers: the mirror, status writers.
//!
//! Memory is bounded by the number of distinct keys: a key that is queued, running or waiting for its
//! retry is held once, however often it is pushed.

use futures::FutureExt;
use indexmap::IndexSet;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

/// First delay after a failure.
const FIRST: Duration = Duration::from_millis(50);
/// Longest delay.
const CEILING: Duration = Duration::from_secs(30);

/// What came of one piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It landed.
    Done,
    /// Try again after the key's backoff.
    Retry,
}

/// A queue handle; clones share the queue.
#[derive(Debug)]
pub struct Queue<K>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Queue<K> {
    fn default() -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::default()), changed: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash + Ord + Send + Sync + 'static> Queue<K> {
    /// Asks for work on the key now. A key that waits for a retry is tried at once; one that is being
    /// worked on is worked on again afterwards.
    pub fn push(&self, key: K) {
        self.0.state.lock().push(key);
        self.0.changed.notify_one();
    }

    /// How many keys are queued, running or waiting.
    pub fn len(&self) -> usize {
        self.0.state.lock().len()
    }

    /// True if nothing is queued, running or waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Works on keys for ever, at most `concurrency` at a time. Dropping the future stops the work.
    pub async fn run<F, W>(&self, concurrency: usize, work: F)
    where
        F: Fn(K) -> W,
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut running: JoinSet<(K, Outcome)> = JoinSet::new();
        loop {
            let next_due = self.start(&mut running, concurrency, &work);
            tokio::select! {
                Some(ended) = running.join_next() => {
                    if let Ok((key, outcome)) = ended {
                        self.0.state.lock().ended(key, outcome, Instant::now());
                    }
                }
                () = self.0.changed.notified() => {}
                () = sleep_until(next_due) => {}
            }
        }
    }

    fn start<F, W>(
        &self,
        running: &mut JoinSet<(K, Outcome)>,
        concurrency: usize,
        work: &F,
    ) -> Option<Instant>
    where
        F: Fn(K) -> W,
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut state = self.0.state.lock();
        while running.len() < concurrency
            && let Some(key) = state.next(Instant::now())
        {
            let task = AssertUnwindSafe(work(key.clone())).catch_unwind();
            // Work that panicked is tried again, as any that failed.
            running.spawn(async move { (key, task.await.unwrap_or(Outcome::Retry)) });
        }
        if running.len() < concurrency { state.due() } else { None }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[derive(Debug)]
struct State<K> {
    queued: IndexSet<K>,
    running: HashSet<K>,
    /// Pushed while running.
    again: HashSet<K>,
    waiting: BTreeSet<(Instant, K)>,
    /// Failures in a row, and the retry's time if the key waits.
    failures: HashMap<K, (u32, Option<Instant>)>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        Self {
            queued: IndexSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            waiting: BTreeSet::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn push(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
            return;
        }
        if let Some((_, due)) = self.failures.get_mut(&key)
            && let Some(due) = due.take()
        {
            self.waiting.remove(&(due, key.clone()));
        }
        self.queued.insert(key);
    }

    fn next(&mut self, now: Instant) -> Option<K> {
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
            && let Some((_, key)) = self.waiting.pop_first()
        {
            if let Some((_, due)) = self.failures.get_mut(&key) {
                *due = None;
            }
            self.queued.insert(key);
        }
        let key = self.queued.shift_remove_index(0)?;
        self.running.insert(key.clone());
        Some(key)
    }

    fn ended(&mut self, key: K, outcome: Outcome, now: Instant) {
        self.running.remove(&key);
        let again = self.again.remove(&key);
        match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
                if again {
                    self.queued.insert(key);
                }
            }
            Outcome::Retry => {
                let (count, due) = self.failures.entry(key.clone()).or_default();
                let delay = (FIRST * 2u32.pow((*count).min(16))).min(CEILING);
                *count += 1;
                if again {
                    self.queued.insert(key);
                } else {
                    *due = Some(now + delay);
                    self.waiting.insert((now + delay, key));
                }
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    fn len(&self) -> usize {
        self.queued.len() + self.running.len() + self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_key_is_held_once_and_runs_again_if_pushed_meanwhile() {
        let mut state = State::default();
        let now = Instant::now();
        state.push(1);
        state.push(1);
        assert_eq!(state.next(now), Some(1));
        assert_eq!(state.next(now), None);
        state.push(1);
        assert_eq!(state.next(now), None, "not twice at a time");
        state.ended(1, Outcome::Done, now);
        assert_eq!(state.next(now), Some(1));
        state.ended(1, Outcome::Done, now);
        assert_eq!((state.len(), state.failures.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_is_tried_again() {
        let queue = Queue::default();
        queue.push(1);
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let work = move |_| {
            let tries = counted.clone();
            async move {
                assert!(tries.fetch_add(1, Ordering::Relaxed) > 0, "the first try fails");
                Outcome::Done
            }
        };
        tokio::select! {
            () = queue.run(1, work) => unreachable!("it runs for ever"),
            () = async { while !queue.is_empty() { tokio::time::sleep(FIRST).await; } } => {}
        }
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn failures_back_off_until_the_cap_and_a_push_goes_at_once() {
        let mut state = State::default();
        let mut now = Instant::now();
        state.push(1);
        let mut delays = Vec::new();
        for _ in 0..12 {
            assert_eq!(state.next(now), Some(1));
            state.ended(1, Outcome::Retry, now);
            let due = state.due().unwrap();
            delays.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(delays[..4], [50, 100, 200, 400]);
        assert_eq!(delays[11], 30_000);
        assert_eq!(state.next(now), Some(1));
        state.ended(1, Outcome::Retry, now);
        state.push(1);
        assert_eq!((state.next(now), state.due()), (Some(1), None));
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_retried_until_it_lands() {
        let queue = Queue::default();
        let tries = Arc::new(AtomicUsize::new(0));
        for key in 0..100 {
            queue.push(key);
        }
        let (seen, until) = (tries.clone(), queue.clone());
        let work = queue.run(8, move |key: u32| {
            let seen = seen.clone();
            async move {
                let n = seen.fetch_add(1, Ordering::SeqCst);
                if key == 7 && n < 150 { Outcome::Retry } else { Outcome::Done }
            }
        });
        let idle = async move {
            for round in 0.. {
                if until.is_empty() || round > 10_000 {
                    return round;
                }
                until.push(1);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            0
        };
        tokio::select! {
            () = work => {}
            rounds = idle => assert!(rounds < 10_000),
        }
        assert!(tries.load(Ordering::SeqCst) >= 150);
    }
}
