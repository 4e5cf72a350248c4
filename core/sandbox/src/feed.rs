//! # Feed
//!
//! Job: turns list and watch of one kind into a stream of changes which survives everything but a drop:
//! after an error it reconnects with a short, capped backoff, and a new list replaces the old view.
//! May touch: the API through `kube`. Must not touch: what a change means.
//! Callers: the controllers, the node agent, the cluster DNS, the forwarders.

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;

/// What happened to the watched objects.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// An object was created or modified.
    Apply(K),
    /// An object is gone.
    Delete(K),
    /// This is the whole view; what is not in it does not exist.
    Replace(Vec<K>),
}

/// Time before the first attempt after an error, doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest time between two attempts: the API server is on the same machine.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The changes of all objects of `api` which `config` selects. Never ends.
pub(crate) fn feed<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Change<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let state = (Box::pin(watcher(api, config)), Vec::new(), BACKOFF_MIN);
    futures::stream::unfold(state, |(mut events, mut listed, mut backoff)| async move {
        loop {
            let change = match events.next().await? {
                Ok(Event::Apply(object)) => Change::Apply(trimmed(object)),
                Ok(Event::Delete(object)) => Change::Delete(trimmed(object)),
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.push(trimmed(object));
                    continue;
                }
                Ok(Event::InitDone) => Change::Replace(std::mem::take(&mut listed)),
                Err(error) => {
                    tracing::debug!(%error, "watch interrupted");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            backoff = BACKOFF_MIN;
            return Some((change, (events, listed, backoff)));
        }
    })
}

/// Managed fields are the larger half of an object, and nobody here reads them.
fn trimmed<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
