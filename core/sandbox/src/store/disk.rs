//! # The store's folder
//!
//! Job: keeps objects in sled, so that a restart finds them. Writes land in sled's log at once and on the disk a moment
//! later: no write waits for the disk.
//! May touch: the store's folder. Must not touch: history, watches.
//! Callers: `store`.

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Key, Stored};

/// Revisions skipped at a start, so that none which was handed out just before a crash comes again.
const RESTART_GAP: u64 = 1000;
/// How long a write may stay in memory only.
const FLUSH_MS: u64 = 200;
/// sled's page cache; every object is in memory anyway.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;
/// How long the lock of a store that was just closed may outlive it: sled's own thread and children that are being
/// started hold it for moments.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(1);
/// Marks a store that was set up.
const FORMAT: &[u8] = b"format";
const REVISION: &[u8] = b"revision";
const SEPARATOR: char = '\u{0}';

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store {path} is in use by another process; stop that sandbox first")]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// Its content cannot be read.
    #[error("the store {path} is damaged ({reason}); remove that folder to start an empty cluster")]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
}

#[derive(Debug)]
pub(super) struct Disk {
    db: sled::Db,
    objects: sled::Tree,
}

/// What the folder held: objects as (table, key, value, revision).
pub(super) struct Loaded {
    pub(super) revision: u64,
    pub(super) objects: Vec<(String, Key, Value, u64)>,
}

/// Opens a store, waiting for the lock of one that is just being closed.
fn unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(error) if is_locked(&error) && begun.elapsed() < UNLOCKED_WITHIN => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("lock"))
}

impl Disk {
    pub(super) fn open(folder: &Path) -> Result<(Self, Loaded), StoreError> {
        let damaged = |reason: String| StoreError::Damaged { path: folder.to_owned(), reason };
        let config = sled::Config::new()
            .path(folder)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_MS));
        // sled panics on some kinds of damage; a damaged folder must be an error, not an abort.
        let existed = folder.join("conf").exists();
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| -> sled::Result<_> {
            let db = unlocked(&config)?;
            let objects = db.open_tree("objects")?;
            let marked = db.contains_key(FORMAT)?;
            if !existed {
                db.insert(FORMAT, b"1")?;
                db.flush()?;
            }
            Ok((db, objects, marked))
        }));
        let (db, objects) = match opened {
            // sled takes some damage for an empty log; the mark tells the two apart.
            Ok(Ok((_, _, false))) if existed => {
                return Err(damaged("its log has lost entries".into()));
            }
            Ok(Ok((db, objects, _))) => (db, objects),
            Ok(Err(e)) if is_locked(&e) => {
                return Err(StoreError::InUse { path: folder.to_owned() });
            }
            Ok(Err(e)) => return Err(damaged(e.to_string())),
            Err(_) => return Err(damaged("its log does not parse".into())),
        };
        let disk = Self { db, objects };
        let loaded = disk.load().map_err(damaged)?;
        Ok((disk, loaded))
    }

    fn load(&self) -> Result<Loaded, String> {
        let mut revision = match self.db.get(REVISION).map_err(|e| e.to_string())? {
            Some(bytes) => u64::from_be_bytes(
                bytes.as_ref().try_into().map_err(|_| "its revision is garbled")?,
            ),
            None => 0,
        };
        let mut objects = Vec::new();
        for entry in self.objects.iter() {
            let (key, bytes) = entry.map_err(|e| e.to_string())?;
            let (table, key) = parse_key(&key).ok_or("a key is garbled")?;
            let value: Value = serde_json::from_slice(&bytes)
                .map_err(|e| format!("{table} {}/{}: {e}", key.namespace, key.name))?;
            let own = value["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
            let own = own.ok_or_else(|| format!("{} has no revision", key.name))?;
            revision = revision.max(own);
            objects.push((table, key, value, own));
        }
        let gap = if revision == 0 { 0 } else { RESTART_GAP };
        Ok(Loaded { revision: revision + gap, objects })
    }

    pub(super) fn put(&self, table: &str, key: &Key, object: &Stored) {
        let written = self.objects.insert(disk_key(table, key), object.json().as_ref());
        self.note(written.map(|_| ()), object.revision);
    }

    pub(super) fn remove(&self, table: &str, key: &Key, revision: u64) {
        let written = self.objects.remove(disk_key(table, key));
        self.note(written.map(|_| ()), revision);
    }

    pub(super) async fn flush(&self) {
        if let Err(e) = self.db.flush_async().await {
            tracing::error!(error = %e, "the store could not be written; objects live in memory only");
        }
    }

    fn note(&self, written: sled::Result<()>, revision: u64) {
        let written = written
            .and_then(|()| self.db.insert(REVISION, revision.to_be_bytes().as_slice()).map(|_| ()));
        if let Err(e) = written {
            tracing::error!(error = %e, "the store could not be written; objects live in memory only");
        }
    }
}

fn disk_key(table: &str, key: &Key) -> Vec<u8> {
    format!("{table}{SEPARATOR}{}{SEPARATOR}{}", key.namespace, key.name).into_bytes()
}

fn parse_key(bytes: &[u8]) -> Option<(String, Key)> {
    let mut parts = std::str::from_utf8(bytes).ok()?.split(SEPARATOR);
    let (table, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some((table.to_owned(), Key::new(namespace, name)))
}
