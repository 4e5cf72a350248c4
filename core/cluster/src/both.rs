//! # One watch, two indexes
//!
//! Job: let two indexes share one watch, so that a process lists and follows each kind once.
//! May touch: the indexes through their locks. Must not touch: the API server.
//! Callers: binaries whose rooms index the same kind.

use crate::watch::Index;
use parking_lot::Mutex;
use std::sync::Arc;

/// Feeds both, the first one first; never holds both locks. Nests, for more than two.
#[derive(Debug)]
pub struct Both<A, B>(pub Arc<Mutex<A>>, pub Arc<Mutex<B>>);

impl<K: Clone, A: Index<K>, B: Index<K>> Index<K> for Both<A, B> {
    fn apply(&mut self, object: K) {
        self.0.lock().apply(object.clone());
        self.1.lock().apply(object);
    }

    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.0.lock().delete(namespace, name);
        self.1.lock().delete(namespace, name);
    }

    fn reset(&mut self, objects: Vec<K>) {
        self.0.lock().reset(objects.clone());
        self.1.lock().reset(objects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Vec<String>);

    impl Index<u8> for Log {
        fn apply(&mut self, object: u8) {
            self.0.push(format!("apply {object}"));
        }
        fn delete(&mut self, _: Option<&str>, name: &str) {
            self.0.push(format!("delete {name}"));
        }
        fn reset(&mut self, objects: Vec<u8>) {
            self.0.push(format!("reset {objects:?}"));
        }
    }

    #[test]
    fn both_hear_the_same() {
        let (a, b) = (Arc::new(Mutex::new(Log::default())), Arc::new(Mutex::new(Log::default())));
        let mut both = Both(a.clone(), b.clone());
        both.reset(vec![1, 2]);
        both.apply(3);
        Index::<u8>::delete(&mut both, None, "x");
        assert_eq!(a.lock().0, ["reset [1, 2]", "apply 3", "delete x"]);
        assert_eq!(a.lock().0, b.lock().0);
    }
}
