//! # Watches
//!
//! Job: list a kind, then follow it, and feed an index; survive whatever the API server does.
//! May touch: the Kubernetes API. Must not touch: what the objects mean.
//! Callers: every controller.

use crate::{apply::DEADLINE, within};
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
/// An object that does not deserialise is skipped with a warning; its last good version stays until the
/// next list. A custom kind that the API server, by its own word, does not serve counts as an empty one
/// and is asked for again. Errors are retried after 100 ms, doubling up to 5 s. `managedFields` are dropped.
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
                    if code(&error) == 404
                        && is_unserved(api.clone().into_client(), &feed.what).await
                    {
                        feed.unserved();
                    } else {
                        feed.failed(&error);
                    }
                    tokio::time::sleep(backoff.next(Instant::now())).await;
                    if is_refused(&error) {
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

    /// There are no objects of this kind.
    fn unserved(&mut self) {
        tracing::debug!(kind = %self.what, "the kind is not served: taken as empty");
        self.index.lock().reset(Vec::new());
        self.ready = None;
    }

    fn failed(&self, error: &watcher::Error) {
        match code(error) {
            401 | 403 => {
                tracing::warn!(kind = %self.what, %error, "watch refused: check the role's list and watch permissions")
            }
            410 => tracing::debug!(kind = %self.what, "watch too old: listing again"),
            _ => tracing::info!(kind = %self.what, %error, "watch interrupted"),
        }
    }
}

/// Whether a watch is refused as a whole, or answered with something else: it would be retried from the same
/// version for ever.
fn is_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(_) => matches!(code(error), 400..=499),
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) => true,
        _ => false,
    }
}

/// The HTTP status of a failure, 0 without one.
fn code(error: &watcher::Error) -> u16 {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(s))
        | watcher::Error::WatchStartFailed(kube::Error::Api(s)) => s.code,
        watcher::Error::WatchError(s) => s.code,
        _ => 0,
    }
}

/// Whether the API server lists its kinds and this one is not among them. A 404 alone may come from
/// whatever stands before an API server, and to believe it would be to delete all that is known. Kinds of
/// Kubernetes' core are always served.
async fn is_unserved(client: kube::Client, path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/apis/") else { return false };
    let mut parts = rest.split('/');
    let (Some(group), Some(version), Some(plural)) =
        (parts.next(), parts.next(), parts.next_back())
    else {
        return false;
    };
    let Ok(groups) = within(DEADLINE, client.list_api_groups()).await else { return false };
    let mut versions = groups.groups.iter().filter(|g| g.name == group).flat_map(|g| &g.versions);
    if !versions.any(|v| v.version == version) {
        return true;
    }
    let group_version = format!("{group}/{version}");
    let kinds = within(DEADLINE, client.list_api_group_resources(&group_version)).await;
    kinds.is_ok_and(|kinds| kinds.resources.iter().all(|kind| kind.name != plural))
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
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Names(Vec<String>);

    impl<K: Resource> Index<K> for Names {
        fn apply(&mut self, object: K) {
            self.0.push(object.name_any());
        }
        fn delete(&mut self, _: Option<&str>, name: &str) {
            self.0.retain(|n| n != name);
        }
        fn reset(&mut self, objects: Vec<K>) {
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

    /// Answers lists of one path well once, discovery always, and everything else with a 404 of a proxy that
    /// knows no Kubernetes; counts those.
    fn behind_a_proxy(
        path: &'static str,
        groups: &'static str,
    ) -> (kube::Client, Arc<AtomicUsize>) {
        let refused = Arc::new(AtomicUsize::new(0));
        let (counted, listed) = (refused.clone(), Arc::new(AtomicUsize::new(0)));
        let answer = move |request: http::Request<kube::client::Body>| {
            let (counted, listed) = (counted.clone(), listed.clone());
            async move {
                let query = request.uri().query().unwrap_or_default();
                let list = request.uri().path() == path && !query.contains("watch=");
                let (status, body) = match request.uri().path() {
                    "/apis" => (200, groups.to_owned()),
                    _ if list && listed.fetch_add(1, Ordering::Relaxed) == 0 => {
                        let item = json!({"metadata": {"name": "a"}});
                        let meta = json!({"resourceVersion": "1"});
                        (200, json!({"metadata": meta, "items": [item]}).to_string())
                    }
                    _ => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        (404, "404 page not found".to_owned())
                    }
                };
                let body = kube::client::Body::from(body.into_bytes());
                let response = http::Response::builder().status(status).body(body);
                Ok::<_, std::convert::Infallible>(response.expect("a response"))
            }
        };
        (kube::Client::new(tower::service_fn(answer), "default"), refused)
    }

    async fn until(met: impl Fn() -> bool) {
        let wait = async {
            while !met() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
    }

    const NO_GROUPS: &str = r#"{"groups": []}"#;

    #[tokio::test(start_paused = true)]
    async fn a_404_on_the_way_takes_nothing_away() {
        let (client, refused) = behind_a_proxy("/api/v1/namespaces", NO_GROUPS);
        let index = Arc::new(Mutex::new(Names::default()));
        let api: Api<DeserializeGuard<Namespace>> = Api::all(client);
        let watch = spawn(api, watcher::Config::default(), index.clone(), ());
        until(|| refused.load(Ordering::Relaxed) > 5).await;
        assert_eq!(index.lock().0, ["a"]);
        watch.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_is_served_no_more_is_empty() {
        let (client, _) = behind_a_proxy("/apis/apps/v1/deployments", NO_GROUPS);
        let index = Arc::new(Mutex::new(Names::default()));
        let api: Api<DeserializeGuard<Deployment>> = Api::all(client);
        let seen = Arc::new(());
        let watch = spawn(api, watcher::Config::default(), index.clone(), seen.clone());
        until(|| Arc::strong_count(&seen) == 1).await;
        until(|| index.lock().0.is_empty()).await;
        watch.abort();
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
