//! # Store
//!
//! Job: the objects of a cluster in memory and in sled, a revision for every change, and each table's recent history,
//! from which watches read on.
//! May touch: the store's folder. Must not touch: requests, kinds (an object is opaque JSON here).
//! Callers: the API server only.

mod disk;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use self::disk::Disk;
pub use self::disk::StoreError;

/// Events kept per table for watches that come back; older positions get "Expired".
const HISTORY: usize = 1024;

/// Where an object lies in its table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    pub(crate) revision: u64,
    json: OnceLock<Bytes>,
}

impl Stored {
    fn new(value: Value, revision: u64) -> Arc<Self> {
        Arc::new(Self { value, revision, json: OnceLock::new() })
    }

    /// The object as JSON, serialised once however many watchers see it.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(serde_json::to_vec(&self.value).unwrap_or_default()))
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One entry of a table's history.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    key: Key,
    pub(crate) change: Change,
    pub(crate) object: Arc<Stored>,
    /// The version before, for watches whose selector the object has left or entered.
    pub(crate) previous: Option<Arc<Stored>>,
}

/// The revision that a writer expected is not the present one, or the object is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale;

/// The asked position lies before the kept history.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooOld {
    pub(crate) oldest: u64,
}

/// All tables of a cluster.
#[derive(Debug)]
pub(crate) struct Store {
    inner: RwLock<Inner>,
    disk: Disk,
}

#[derive(Debug)]
struct Inner {
    revision: u64,
    tables: HashMap<String, Table>,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Key, Arc<Stored>>,
    history: VecDeque<Event>,
    /// Changes up to this revision are no longer in `history`.
    floor: u64,
    changed: watch::Sender<u64>,
}

impl Store {
    /// Opens the folder and loads what it holds.
    ///
    /// # Errors
    /// The folder is damaged, unreadable or in use; the message says what to do.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let (disk, loaded) = Disk::open(folder)?;
        let mut inner = Inner { revision: loaded.revision, tables: HashMap::new() };
        for (table, key, value, revision) in loaded.objects {
            let table = inner.table(&table);
            table.objects.insert(key, Stored::new(value, revision));
        }
        Ok(Self { inner: RwLock::new(inner), disk })
    }

    /// The revision of the latest change.
    pub(crate) fn revision(&self) -> u64 {
        self.inner.read().revision
    }

    pub(crate) fn get(&self, table: &str, key: &Key) -> Option<Arc<Stored>> {
        self.inner.read().tables.get(table)?.objects.get(key).cloned()
    }

    /// The objects of a table in key order, of one namespace or all, with the revision they are the state of.
    pub(crate) fn list(&self, table: &str, namespace: Option<&str>) -> (u64, Vec<Arc<Stored>>) {
        let inner = self.inner.read();
        let objects =
            inner.tables.get(table).map_or_else(Vec::new, |table| of(&table.objects, namespace));
        (inner.revision, objects)
    }

    /// [`Store::list`] as it was at a revision: the changes since then are taken back.
    pub(crate) fn list_at(
        &self,
        table: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Arc<Stored>>, TooOld> {
        let inner = self.inner.read();
        let Some(table) = inner.tables.get(table) else { return Ok(Vec::new()) };
        if revision < table.floor {
            return Err(TooOld { oldest: table.floor });
        }
        let mut objects = table.objects.clone();
        for event in table.history.iter().rev().take_while(|e| e.object.revision > revision) {
            match &event.previous {
                Some(previous) => objects.insert(event.key.clone(), previous.clone()),
                None => objects.remove(&event.key),
            };
        }
        Ok(of(&objects, namespace))
    }

    /// Adds an object; `None` if the key is taken.
    pub(crate) fn create(&self, table: &str, key: Key, value: Value) -> Option<Arc<Stored>> {
        let mut inner = self.inner.write();
        if inner.table(table).objects.contains_key(&key) {
            return None;
        }
        Some(self.put(&mut inner, table, key, value, None))
    }

    /// Replaces the version `expected` of an object.
    pub(crate) fn replace(
        &self,
        table: &str,
        key: Key,
        expected: u64,
        value: Value,
    ) -> Result<Arc<Stored>, Stale> {
        let mut inner = self.inner.write();
        let previous = inner.current(table, &key, expected)?;
        Ok(self.put(&mut inner, table, key, value, Some(previous)))
    }

    /// Removes the version `expected` of an object; returns it with the revision of its removal.
    pub(crate) fn remove(
        &self,
        table: &str,
        key: &Key,
        expected: u64,
    ) -> Result<Arc<Stored>, Stale> {
        let mut inner = self.inner.write();
        let previous = inner.current(table, key, expected)?;
        inner.revision += 1;
        let revision = inner.revision;
        let mut value = previous.value.clone();
        stamp(&mut value, revision);
        let object = Stored::new(value, revision);
        self.disk.remove(table, key, revision);
        let table = inner.table(table);
        table.objects.remove(key);
        table.record(Event {
            key: key.clone(),
            change: Change::Deleted,
            object: object.clone(),
            previous: Some(previous),
        });
        Ok(object)
    }

    /// A receiver that wakes with every change of a table.
    pub(crate) fn subscribe(&self, table: &str) -> watch::Receiver<u64> {
        self.inner.write().table(table).changed.subscribe()
    }

    /// The changes of a table after a revision, and the store's revision up to which they are complete.
    pub(crate) fn since(&self, table: &str, revision: u64) -> Result<(u64, Vec<Event>), TooOld> {
        let inner = self.inner.read();
        let present = inner.revision;
        if revision > present {
            return Err(TooOld { oldest: present });
        }
        let Some(table) = inner.tables.get(table) else { return Ok((present, Vec::new())) };
        if revision < table.floor {
            return Err(TooOld { oldest: table.floor });
        }
        let start = table.history.partition_point(|event| event.object.revision <= revision);
        Ok((present, table.history.range(start..).cloned().collect()))
    }

    /// Writes what is pending to disk.
    pub(crate) async fn flush(&self) {
        self.disk.flush().await;
    }

    fn put(
        &self,
        inner: &mut Inner,
        table: &str,
        key: Key,
        mut value: Value,
        previous: Option<Arc<Stored>>,
    ) -> Arc<Stored> {
        inner.revision += 1;
        let revision = inner.revision;
        stamp(&mut value, revision);
        let object = Stored::new(value, revision);
        self.disk.put(table, &key, &object);
        let change = if previous.is_some() { Change::Modified } else { Change::Added };
        let table = inner.table(table);
        table.objects.insert(key.clone(), object.clone());
        table.record(Event { key, change, object: object.clone(), previous });
        object
    }
}

impl Inner {
    fn table(&mut self, name: &str) -> &mut Table {
        if !self.tables.contains_key(name) {
            let table = Table {
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                // Nothing is known of changes before the start, unless there were none.
                floor: self.revision,
                changed: watch::Sender::new(self.revision),
            };
            self.tables.insert(name.to_owned(), table);
        }
        self.tables.get_mut(name).expect("the table was just inserted")
    }

    fn current(&self, table: &str, key: &Key, expected: u64) -> Result<Arc<Stored>, Stale> {
        let object = self.tables.get(table).and_then(|t| t.objects.get(key)).ok_or(Stale)?;
        if object.revision == expected { Ok(object.clone()) } else { Err(Stale) }
    }
}

impl Table {
    fn record(&mut self, event: Event) {
        let revision = event.object.revision;
        if self.history.len() == HISTORY
            && let Some(dropped) = self.history.pop_front()
        {
            self.floor = dropped.object.revision;
        }
        self.history.push_back(event);
        self.changed.send_replace(revision);
    }
}

/// The objects of one namespace or all.
fn of(objects: &BTreeMap<Key, Arc<Stored>>, namespace: Option<&str>) -> Vec<Arc<Stored>> {
    let Some(namespace) = namespace else { return objects.values().cloned().collect() };
    objects
        .range((Bound::Included(Key::new(namespace, "")), Bound::Unbounded))
        .take_while(|(key, _)| key.namespace == namespace)
        .map(|(_, object)| object.clone())
        .collect()
}

fn stamp(value: &mut Value, revision: u64) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}

#[cfg(test)]
mod tests;
