//! # Contract tests against an API server
//!
//! Job: watches and Leases as an API server sees them: gaps, garbage, restarts, holders that come and go.
//! May touch: loopback, temporary folders. Callers: cargo.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
    runtime::watcher,
};
use mesh_cluster::{
    lease::{self, LeaseParams},
    watch::{self, Index},
};
use mesh_sandbox::api::{ApiConfig, ApiServer};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Default)]
struct Names(BTreeSet<String>);

impl Index<ConfigMap> for Names {
    fn apply(&mut self, object: ConfigMap) {
        self.0.insert(object.name_any());
    }
    fn delete(&mut self, _: Option<&str>, name: &str) {
        self.0.remove(name);
    }
    fn reset(&mut self, objects: Vec<ConfigMap>) {
        self.0 = objects.iter().map(ResourceExt::name_any).collect();
    }
}

async fn serve(folder: &Path, bind: SocketAddr) -> (ApiServer, Client) {
    let server = ApiServer::start(ApiConfig::new("one", folder, bind)).await.unwrap();
    let client =
        mesh_cluster::client::from_kubeconfig_text(&server.admin_kubeconfig()).await.unwrap();
    (server, client)
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn until(what: &str, good: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !good().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn named(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

async fn namespace(client: &Client, name: &str) {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let object = Namespace { metadata, ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_follows_and_survives_the_api_servers_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = serve(folder.path(), any()).await;
    namespace(&client, "watched").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "watched");
    let create =
        async |name: &str| drop(maps.create(&PostParams::default(), &named(name)).await.unwrap());
    create("before").await;
    let index = Arc::new(Mutex::new(Names::default()));
    let token = Arc::new(());
    let task = watch::spawn::<ConfigMap, _>(
        Api::namespaced(client.clone(), "watched"),
        watcher::Config::default(),
        index.clone(),
        token.clone(),
    );
    let has = |name: &str| index.lock().0.contains(name);
    until("ready", async || Arc::strong_count(&token) == 1).await;
    assert!(has("before"));
    create("live").await;
    until("the new object", async || has("live")).await;
    maps.delete("live", &DeleteParams::default()).await.unwrap();
    until("its end", async || !has("live")).await;
    let addr = server.addr();
    server.shutdown().await;
    let (_server, client) = serve(folder.path(), addr).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "watched");
    maps.delete("before", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &named("after")).await.unwrap();
    until("what happened meanwhile", async || has("after") && !has("before")).await;
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_candidate_holds_a_lease_and_hands_it_over() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = serve(folder.path(), any()).await;
    namespace(&client, "held").await;
    let params = |who: &str| LeaseParams {
        retry: Duration::from_millis(50),
        ..LeaseParams::new("held", "l", who)
    };
    let mut first = lease::spawn(client.clone(), params("first"));
    first.held.wait_for(|held| *held).await.unwrap();
    let mut second = lease::spawn(client.clone(), params("second"));
    first.annotations.send_modify(|notes| drop(notes.insert("a/b".into(), Some("c".into()))));
    let leases: Api<Lease> = Api::namespaced(client.clone(), "held");
    until("the annotation", async || {
        leases.get("l").await.unwrap().annotations().get("a/b").is_some_and(|v| v == "c")
    })
    .await;
    assert!(!*second.held.borrow());
    first.release().await;
    second.held.wait_for(|held| *held).await.unwrap();
    let spec = leases.get("l").await.unwrap().spec.unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_transitions),
        (Some("second"), Some(1))
    );
    // A holder that vanished without a word finds its own name and goes on at once.
    drop(second);
    let mut again = lease::spawn(client, params("second"));
    let start = Instant::now();
    again.held.wait_for(|held| *held).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}
