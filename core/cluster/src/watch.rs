//! # Watches
//!
//! Job: list a kind, then follow it, and feed an index; survive whatever the API server does.
//! May touch: the Kubernetes API. Must not touch: what the objects mean.
//! Callers: every controller.

use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::watcher::{self, Event},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};

use futures::StreamExt;

/// What a watch feeds. Implementations are pure: they only change themselves, and tell their
/// subscribers by `watch` channels or the like.
pub trait Index<K> {
    /// The object was created or changed.
    fn apply(&mut self, object: K);
    /// The object is gone.
    fn delete(&mut self, namespace: Option<&str>, name: &str);
    /// These are all objects that there are: at the start, and after a gap in the stream.
    fn reset(&mut self, objects: Vec<K>);
}

/// Starts a task that keeps `index` equal to the objects behind `api`, without any delay of its own.
/// `ready` is dropped when the first complete list is in (pass a readiness token).
///
/// An object that does not deserialise is skipped with a warning; its last good version stays. A kind
/// that the API server does not serve counts as an empty one and is asked for again. Errors are
/// retried after 100 ms, doubling up to 5 s. `managedFields` are dropped.
pub fn spawn<K, I>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    index: Arc<Mutex<I>>,
    ready: impl Send + 'static,
) -> JoinHandle<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Clone + Send + Sync,
    I: Index<K> + Send + 'static,
{
    let what = api.resource_url().to_owned();
    tokio::spawn(async move {
        run(api, config, Feed { index, ready: Some(ready), buffer: None, what }).await
    })
}

async fn run<K, I, R>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    mut feed: Feed<K, I, R>,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Clone,
    I: Index<K>,
{
    let mut backoff = Backoff::default();
    loop {
        let mut stream = pin!(watcher::watcher(api.clone(), config.clone()));
        while let Some(item) = stream.next().await {
            match item {
                Ok(event) => {
                    if feed.take(event) {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    let restart = feed.failed(&error);
                    tokio::time::sleep(backoff.next(Instant::now())).await;
                    if restart {
                        break;
                    }
                }
            }
        }
    }
}

/// One watch's way into its index.
struct Feed<K, I, R> {
    index: Arc<Mutex<I>>,
    ready: Option<R>,
    /// Objects of a list that is not complete yet.
    buffer: Option<Vec<K>>,
    what: String,
}

impl<K: Resource, I: Index<K>, R> Feed<K, I, R> {
    /// Takes one event in; true if it proves that the API server serves us.
    fn take(&mut self, event: Event<DeserializeGuard<K>>) -> bool {
        match event {
            Event::Init => {
                self.buffer = Some(Vec::new());
                return false;
            }
            Event::InitApply(object) => {
                let object = self.valid(object);
                self.buffer.get_or_insert_default().extend(object);
            }
            Event::InitDone => {
                let objects = self.buffer.take().unwrap_or_default();
                self.index.lock().reset(objects);
                self.ready = None;
            }
            Event::Apply(object) => {
                if let Some(object) = self.valid(object) {
                    self.index.lock().apply(object);
                }
            }
            Event::Delete(object) => {
                let meta = object.meta();
                let name = meta.name.as_deref().unwrap_or_default();
                self.index.lock().delete(meta.namespace.as_deref(), name);
            }
        }
        true
    }

    fn valid(&self, object: DeserializeGuard<K>) -> Option<K> {
        match object.0 {
            Ok(mut object) => {
                object.managed_fields_mut().clear();
                Some(object)
            }
            Err(invalid) => {
                let (name, namespace) = (&invalid.metadata.name, &invalid.metadata.namespace);
                let (name, namespace) =
                    (name.as_deref().unwrap_or("?"), namespace.as_deref().unwrap_or(""));
                tracing::warn!(kind = %self.what, namespace, name, error = %invalid.error, "object skipped: it is not valid");
                None
            }
        }
    }

    /// Logs; true if the watch must be started anew.
    fn failed(&mut self, error: &watcher::Error) -> bool {
        let code = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(s))
            | watcher::Error::WatchStartFailed(kube::Error::Api(s)) => s.code,
            watcher::Error::WatchError(s) => s.code,
            _ => 0,
        };
        match code {
            404 => {
                tracing::debug!(kind = %self.what, "the kind is not served: taken as empty");
                self.index.lock().reset(Vec::new());
                self.ready = None;
            }
            401 | 403 => {
                tracing::warn!(kind = %self.what, %error, "watch refused: check the role's list and watch permissions")
            }
            410 => tracing::debug!(kind = %self.what, "watch too old: listing again"),
            _ => tracing::info!(kind = %self.what, %error, "watch interrupted"),
        }
        // A watch that is refused as a whole would be retried from the same version for ever.
        matches!(error, watcher::Error::WatchStartFailed(_)) && matches!(code, 400..=499)
    }
}

/// Delays between attempts: 100 ms, doubling up to 5 s. Reset by success, and by a pause of errors
/// longer than twice the ceiling (a quiet watch shows no other sign of success).
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    last: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(5);

    fn next(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now - last > 2 * Self::CEILING) {
            self.failures = 0;
        }
        let delay = Self::FIRST * 2u32.pow(self.failures.min(10));
        self.failures += 1;
        self.last = Some(now);
        delay.min(Self::CEILING)
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Namespace;
    use serde_json::json;

    #[derive(Default)]
    struct Names(Vec<String>);

    impl Index<Namespace> for Names {
        fn apply(&mut self, object: Namespace) {
            self.0.push(object.name_any());
        }
        fn delete(&mut self, _: Option<&str>, name: &str) {
            self.0.retain(|n| n != name);
        }
        fn reset(&mut self, objects: Vec<Namespace>) {
            self.0 = objects.iter().map(ResourceExt::name_any).collect();
        }
    }

    fn object(name: &str, spec: serde_json::Value) -> DeserializeGuard<Namespace> {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": spec
        }))
        .unwrap()
    }

    #[test]
    fn an_index_follows_lists_changes_and_gaps_and_skips_garbage() {
        let index = Arc::new(Mutex::new(Names::default()));
        let token = Arc::new(());
        let mut feed = Feed {
            index: index.clone(),
            ready: Some(token.clone()),
            buffer: None,
            what: "ns".into(),
        };
        let names = || index.lock().0.join(",");
        feed.take(Event::Init);
        feed.take(Event::InitApply(object("a", json!({}))));
        feed.take(Event::InitApply(object("bad", json!(7))));
        assert_eq!(
            (names(), Arc::strong_count(&token)),
            (String::new(), 2),
            "nothing before the end"
        );
        feed.take(Event::InitDone);
        assert_eq!((names(), Arc::strong_count(&token)), ("a".into(), 1));
        feed.take(Event::Apply(object("b", json!({}))));
        feed.take(Event::Apply(object("bad", json!("x"))));
        feed.take(Event::Delete(object("a", json!({}))));
        assert_eq!(names(), "b");
        for event in [Event::Init, Event::InitApply(object("c", json!({}))), Event::InitDone] {
            feed.take(event);
        }
        assert_eq!(names(), "c");
    }

    #[test]
    fn delays_start_small_are_capped_and_start_over() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(now).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(now + Duration::from_secs(11)).as_millis(), 100);
        backoff.next(now + Duration::from_secs(11));
        backoff.reset();
        assert_eq!(backoff.next(now + Duration::from_secs(12)).as_millis(), 100);
    }
}
