//! # Published views
//!
//! Job: the other end of an index: values that subscribers asked for, each behind a `watch` channel that
//! speaks only when its value changes, and rebuilt only when a fact changed that it is about.
//! May touch: `tokio::sync::watch`. Must not touch: tasks, the API server.
//! Callers: the indexes of the control plane.
//!
//! A `watch` channel holds one value however slow its reader is, so a slow client costs no queue: it
//! gets the sum of the changes since it last read.

use std::{collections::HashMap, hash::Hash};
use tokio::sync::watch;

/// Views of one sort: by subject (what makes them change), then by key.
#[derive(Debug)]
pub struct Views<S, K, V> {
    by_subject: HashMap<S, HashMap<K, watch::Sender<V>>>,
    /// Number of views at which the next subscription sweeps out those that nobody reads.
    sweep_at: usize,
}

const MIN_SWEEP: usize = 64;

impl<S, K, V> Default for Views<S, K, V> {
    fn default() -> Self {
        Self { by_subject: HashMap::new(), sweep_at: MIN_SWEEP }
    }
}

impl<S: Eq + Hash + Clone, K: Eq + Hash + Clone, V: PartialEq> Views<S, K, V> {
    /// A receiver of the view of `key`, made by `build` if there is none yet.
    pub fn subscribe(
        &mut self,
        subject: S,
        key: K,
        build: impl FnOnce() -> V,
    ) -> watch::Receiver<V> {
        if self.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = (2 * self.len()).max(MIN_SWEEP);
        }
        let of_subject = self.by_subject.entry(subject).or_default();
        of_subject.entry(key).or_insert_with(|| watch::Sender::new(build())).subscribe()
    }

    /// Rebuilds the views of a subject, `build` being given the value now; readers are woken only where
    /// it differs. Views that nobody reads any more are dropped.
    pub fn refresh(&mut self, subject: &S, build: impl Fn(&K, &V) -> V) {
        let Some(views) = self.by_subject.get_mut(subject) else { return };
        views.retain(|key, sender| {
            sender.send_if_modified(|value| {
                let next = build(key, value);
                let changed = *value != next;
                if changed {
                    *value = next;
                }
                changed
            });
            sender.receiver_count() > 0
        });
        if views.is_empty() {
            self.by_subject.remove(subject);
        }
    }

    /// Subjects that somebody may be reading and that fulfil `wanted`.
    pub fn subjects(&self, wanted: impl Fn(&S) -> bool) -> Vec<S> {
        self.by_subject.keys().filter(|s| wanted(s)).cloned().collect()
    }

    fn len(&self) -> usize {
        self.by_subject.values().map(HashMap::len).sum()
    }

    fn sweep(&mut self) {
        self.by_subject.retain(|_, views| {
            views.retain(|_, sender| sender.receiver_count() > 0);
            !views.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_wake_nobody_and_unread_views_go() {
        let mut views: Views<u32, u32, u32> = Views::default();
        for subject in 0..1000 {
            drop(views.subscribe(subject, 0, || 1));
        }
        assert!(views.len() <= MIN_SWEEP, "{}", views.len());
        let mut held = views.subscribe(7, 0, || 1);
        held.mark_unchanged();
        views.refresh(&7, |_, now| *now);
        assert!(!held.has_changed().unwrap_or(true));
        views.refresh(&7, |_, now| now + 1);
        assert_eq!(*held.borrow_and_update(), 2);
        drop(held);
        views.refresh(&7, |_, now| now + 1);
        assert!(views.subjects(|s| *s == 7).is_empty());
    }
}
