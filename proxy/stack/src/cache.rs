//! # Idle cache
//!
//! Job: values that are built once for a key, shared by everyone who holds a handle, and forgotten a
//! while after the last handle is gone.
//! May touch: timers. Must not touch: what the values mean.
//! Callers: outbound discovery, inbound policies, clients.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    hash::Hash,
    ops::Deref,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, OnceCell},
    time::Instant,
};

/// A map whose entries leave one full `idle` interval after their last handle was dropped. A use
/// within the interval restarts it; permanent entries never leave. Clones share the map.
pub struct Cache<K, V> {
    shared: Arc<Shared<K, V>>,
}

/// A use of an entry. The entry stays while any handle lives.
pub struct Handle<V> {
    entry: Arc<Entry<V>>,
}

struct Shared<K, V> {
    idle: Duration,
    entries: Mutex<HashMap<K, Arc<Entry<V>>>>,
}

struct Entry<V> {
    value: OnceCell<V>,
    usage: Mutex<Usage>,
    released: Notify,
}

struct Usage {
    handles: usize,
    last: Instant,
    permanent: bool,
}

// === impl Cache ===

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// An empty cache with the given idle interval.
    pub fn new(idle: Duration) -> Self {
        Self { shared: Arc::new(Shared { idle, entries: Mutex::new(HashMap::new()) }) }
    }

    /// The value of `key`, built if it is missing. Concurrent callers of a missing key wait for one
    /// build; if it fails, one of the others tries, and nothing is remembered.
    ///
    /// # Errors
    /// The build's own error.
    pub async fn get_or_build<E, F>(
        &self,
        key: &K,
        build: impl FnOnce() -> F,
    ) -> Result<Handle<V>, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let handle = self.checkout(key);
        match handle.entry.value.get_or_try_init(build).await {
            Ok(_) => Ok(handle),
            Err(error) => {
                self.shared.forget(key, &handle.entry, |entry| entry.value.get().is_none());
                Err(error)
            }
        }
    }

    /// The value of `key`, made now if it is missing; `None` while somebody builds it.
    pub fn get_or_make(&self, key: &K, make: impl FnOnce() -> V) -> Option<Handle<V>> {
        let handle = self.checkout(key);
        if !handle.entry.value.initialized() {
            // Fails if somebody is quicker, whose value then is as good.
            let _ = handle.entry.value.set(make());
        }
        handle.entry.value.initialized().then_some(handle)
    }

    /// The value of `key` if it has been built.
    pub fn get(&self, key: &K) -> Option<Handle<V>> {
        let entry = self.shared.entries.lock().get(key)?.clone();
        entry.value.get()?;
        Some(Handle::of(entry))
    }

    /// Adds a value that never leaves, replacing any other of the same key.
    pub fn insert_permanent(&self, key: K, value: V) -> Handle<V> {
        let entry = Arc::new(Entry::new(OnceCell::new_with(Some(value)), true));
        self.shared.entries.lock().insert(key, entry.clone());
        Handle::of(entry)
    }

    /// Forgets `key` if it is still the entry of `handle`.
    pub fn invalidate_handle(&self, key: &K, handle: &Handle<V>) {
        self.shared.forget(key, &handle.entry, |_| true);
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shared.entries.lock().len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn checkout(&self, key: &K) -> Handle<V> {
        let mut entries = self.shared.entries.lock();
        if let Some(entry) = entries.get(key) {
            return Handle::of(entry.clone());
        }
        let entry = Arc::new(Entry::new(OnceCell::new(), false));
        entries.insert(key.clone(), entry.clone());
        let handle = Handle::of(entry.clone());
        tokio::spawn(evict(Arc::downgrade(&self.shared), key.clone(), entry));
        handle
    }
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Eq + Hash, V> Shared<K, V> {
    /// Removes `key` if it still leads to `entry` and `condition` holds under the lock.
    fn forget(
        &self,
        key: &K,
        entry: &Arc<Entry<V>>,
        condition: impl Fn(&Entry<V>) -> bool,
    ) -> bool {
        let mut entries = self.entries.lock();
        match entries.get(key) {
            Some(current) if Arc::ptr_eq(current, entry) => {
                condition(entry) && entries.remove(key).is_some()
            }
            _ => true,
        }
    }
}

/// Waits until the entry has been without a handle for the whole interval, then removes it. One task
/// an entry, so that the churn of handles costs no timers.
async fn evict<K: Eq + Hash, V>(shared: Weak<Shared<K, V>>, key: K, entry: Arc<Entry<V>>) {
    loop {
        entry.released.notified().await;
        loop {
            let Some(strong) = shared.upgrade() else { return };
            let deadline = {
                let usage = entry.usage.lock();
                if usage.handles > 0 {
                    break;
                }
                usage.last + strong.idle
            };
            if deadline <= Instant::now() {
                // Checkout takes the same map lock, so no handle can appear in between.
                if strong.forget(&key, &entry, |entry| entry.usage.lock().handles == 0) {
                    return;
                }
                break;
            }
            drop(strong);
            tokio::time::sleep_until(deadline).await;
        }
    }
}

// === impl Handle ===

impl<V> Handle<V> {
    fn of(entry: Arc<Entry<V>>) -> Self {
        entry.usage.lock().handles += 1;
        Self { entry }
    }
}

impl<V> Clone for Handle<V> {
    fn clone(&self) -> Self {
        Self::of(self.entry.clone())
    }
}

impl<V> Drop for Handle<V> {
    fn drop(&mut self) {
        let mut usage = self.entry.usage.lock();
        usage.handles -= 1;
        usage.last = Instant::now();
        if usage.handles == 0 && !usage.permanent {
            self.entry.released.notify_one();
        }
    }
}

impl<V> Deref for Handle<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.entry.value.get().expect("a handle is given out only after its value was built")
    }
}

impl<V: fmt::Debug> fmt::Debug for Handle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.entry.value.get()).finish()
    }
}

impl<V> Entry<V> {
    fn new(value: OnceCell<V>, permanent: bool) -> Self {
        let usage = Usage { handles: 0, last: Instant::now(), permanent };
        Self { value, usage: Mutex::new(usage), released: Notify::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    const IDLE: Duration = Duration::from_secs(5);

    async fn put(cache: &Cache<u8, u8>, key: u8) -> Handle<u8> {
        cache.get_or_build(&key, || async move { Ok::<_, Infallible>(key) }).await.unwrap()
    }

    // proves: STACK-1
    #[tokio::test(start_paused = true)]
    async fn an_entry_leaves_one_interval_after_its_last_handle() {
        let cache = Cache::new(IDLE);
        let handle = put(&cache, 1).await;
        tokio::time::sleep(IDLE * 3).await;
        assert_eq!(cache.len(), 1, "held entries stay");
        drop(handle.clone());
        drop(handle);
        tokio::time::sleep(IDLE - Duration::from_millis(1)).await;
        let again = cache.get(&1).expect("still there within the interval");
        assert_eq!(*again, 1);
        drop(again);
        tokio::time::sleep(IDLE - Duration::from_millis(1)).await;
        assert_eq!(cache.len(), 1, "use restarts the interval");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(cache.is_empty());
    }

    // proves: STACK-1
    #[tokio::test(start_paused = true)]
    async fn permanent_entries_stay_and_invalid_ones_go() {
        let cache = Cache::new(IDLE);
        drop(cache.insert_permanent(1, 1));
        let two = put(&cache, 2).await;
        tokio::time::sleep(IDLE * 3).await;
        assert_eq!(cache.len(), 2);
        cache.invalidate_handle(&2, &two);
        assert!(cache.get(&2).is_none());
        assert_eq!(*two, 2);
        assert!(cache.get(&1).is_some());
    }

    // proves: STACK-1
    #[tokio::test(start_paused = true)]
    async fn concurrent_misses_build_once_and_failures_are_not_kept() {
        let cache = Cache::<u8, u8>::new(IDLE);
        let built = AtomicUsize::new(0);
        let build = || async {
            built.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<u8, Infallible>(7)
        };
        let (a, b) = tokio::join!(cache.get_or_build(&1, build), cache.get_or_build(&1, build));
        assert_eq!((*a.unwrap(), *b.unwrap()), (7, 7));
        assert_eq!(built.load(Ordering::SeqCst), 1);

        let made = |cache: &Cache<u8, u8>| cache.get_or_make(&3, || 3).map(|made| *made);
        let three = cache.get_or_build(&3, || async {
            tokio::task::yield_now().await;
            Ok::<u8, Infallible>(4)
        });
        let (four, meanwhile) = tokio::join!(three, async { made(&cache) });
        assert_eq!((*four.unwrap(), meanwhile, made(&cache)), (4, None, Some(4)));
        assert_eq!(cache.get_or_make(&5, || 5).as_deref(), Some(&5));

        let failed = cache.get_or_build(&2, || async { Err::<u8, &str>("no") }).await;
        assert_eq!(failed.unwrap_err(), "no");
        assert!(cache.get(&2).is_none());
        assert_eq!(*put(&cache, 2).await, 2);
    }
}
