//! # The last good view
//!
//! Job: what is known of exported names and of the gateway's own policies, in memory, and the task that
//! keeps the snapshot file like it.
//! May touch: values, one file through `snapshot`. Must not touch: streams. Callers: `remember`, the wiring.

use crate::snapshot;
use mesh_model::{
    endpoint::EndpointSet, inbound::ServerPolicy, outbound::OutboundPolicy, profile::Profile,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// What is known. Clones share it.
#[derive(Clone, Debug)]
pub struct View(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    contents: Mutex<Contents>,
    changed: watch::Sender<u64>,
}

/// The facts, by name or port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) profiles: BTreeMap<String, Profile>,
    pub(crate) endpoints: BTreeMap<String, EndpointSet>,
    /// Inbound, of the gateway's own ports.
    pub(crate) policies: BTreeMap<u16, Arc<ServerPolicy>>,
    /// Outbound policies, toward names.
    pub(crate) routes: BTreeMap<String, OutboundPolicy>,
}

/// Most names of a kind that are kept: a peer that asks for many cannot fill the memory.
const MOST: usize = 10_000;
/// Shortest time between two writes; what changes meanwhile goes into the next.
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
/// Longest pause after writes that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Default for View {
    fn default() -> Self {
        Self::from(Contents::default())
    }
}

impl From<Contents> for View {
    fn from(contents: Contents) -> Self {
        let changed = watch::channel(0).0;
        Self(Arc::new(Inner { contents: Mutex::new(contents), changed }))
    }
}

impl View {
    /// The view of an earlier life, or an empty one: a missing file is normal, a bad one is warned about
    /// and ignored.
    pub fn resume(path: &Path) -> Self {
        match snapshot::load(path) {
            Ok(Some(view)) => {
                let names = view.0.contents.lock().profiles.len();
                tracing::info!(path = %path.display(), names, "Resuming with the last good view");
                view
            }
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "Snapshot ignored");
                Self::default()
            }
        }
    }

    pub(crate) fn contents(&self) -> Contents {
        self.0.contents.lock().clone()
    }

    pub(crate) fn profile(&self, name: &str) -> Option<Profile> {
        self.0.contents.lock().profiles.get(name).cloned()
    }

    pub(crate) fn endpoints(&self, name: &str) -> Option<EndpointSet> {
        self.0.contents.lock().endpoints.get(name).cloned()
    }

    pub(crate) fn policy(&self, port: u16) -> Option<Arc<ServerPolicy>> {
        self.0.contents.lock().policies.get(&port).cloned()
    }

    pub(crate) fn routes(&self, name: &str) -> Option<OutboundPolicy> {
        self.0.contents.lock().routes.get(name).cloned()
    }

    pub(crate) fn set_routes(&self, name: &str, policy: Option<OutboundPolicy>) {
        self.change(|contents| set(&mut contents.routes, name.to_owned(), policy));
    }

    pub(crate) fn set_profile(&self, name: &str, profile: Option<Profile>) {
        self.change(|contents| set(&mut contents.profiles, name.to_owned(), profile));
    }

    pub(crate) fn set_endpoints(&self, name: &str, endpoints: Option<EndpointSet>) {
        self.change(|contents| set(&mut contents.endpoints, name.to_owned(), endpoints));
    }

    pub(crate) fn set_policy(&self, port: u16, policy: Arc<ServerPolicy>) {
        self.change(|contents| set(&mut contents.policies, port, Some(policy)));
    }

    fn change(&self, edit: impl FnOnce(&mut Contents) -> bool) {
        if edit(&mut self.0.contents.lock()) {
            self.0.changed.send_modify(|n| *n += 1);
        }
    }
}

fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        None => map.remove(&key).is_some(),
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            let fits = map.len() < MOST || map.contains_key(&key);
            if fits {
                map.insert(key, value);
            }
            fits
        }
    }
}

/// Writes the view to `path` whenever it has changed, for ever. A failed write is logged and tried again.
pub async fn keep_saved(view: View, path: PathBuf) {
    let mut changed = view.0.changed.subscribe();
    let mut pause = BETWEEN_WRITES;
    loop {
        // The view holds the sender.
        let _ = changed.changed().await;
        let (view, path) = (view.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || snapshot::save(&view, &path)).await;
        match written {
            Ok(Ok(())) => pause = BETWEEN_WRITES,
            Ok(Err(error)) => {
                pause = LONGEST_PAUSE.min(pause * 2);
                tracing::warn!(%error, ?pause, "The last good view could not be saved; trying again");
                changed.mark_changed();
            }
            Err(error) => tracing::warn!(%error, "Saving the last good view was cut off"),
        }
        tokio::time::sleep(pause).await;
    }
}
