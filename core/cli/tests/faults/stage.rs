//! What every fault needs: its turn on the stage, load, and hands to break and mend parts.

use crate::harness::{Cluster, demo, eventually, first_200, through};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mesh_demo::{
    client::Protocol,
    load::{self, Pace, Report},
};
use serde_json::json;
use std::{
    process::Command,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
};

/// The namespace of gateway and mirror.
pub(crate) const EXTENSION: &str = "linkerd-multicluster";
/// The Service under load, as west knows it.
pub(crate) const MIRROR: &str = "echo-east";

/// Both clusters, for one scene at a time.
pub(crate) struct Stage {
    pub(crate) east: Cluster,
    pub(crate) west: Cluster,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// Waits for its turn, and until all is well.
    pub(crate) async fn enter() -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let stage = Self {
            east: Cluster::open("east").await,
            west: Cluster::open("west").await,
            _turn: turn,
        };
        stage.well().await;
        stage
    }

    /// Waits until the mirror has its endpoint and answers.
    pub(crate) async fn well(&self) {
        eventually("the mirror's endpoint", async || self.west.ready_address(MIRROR).await).await;
        first_200(format!("{MIRROR}.demo")).await;
    }

    /// Waits until the mirror has no ready endpoint; the time that it took.
    pub(crate) async fn withdrawn(&self) -> Duration {
        let begun = Instant::now();
        eventually("the endpoint's withdrawal", async || {
            self.west.ready_address(MIRROR).await.is_none().then_some(())
        })
        .await;
        begun.elapsed()
    }
}

/// `short` in a debug build, unless `MESH_TEST_FULL` is set, else `full`.
pub(crate) fn by_build<T>(short: T, full: T) -> T {
    let short_run = cfg!(debug_assertions) && std::env::var_os("MESH_TEST_FULL").is_none();
    if short_run { short } else { full }
}

/// Requests to the mirror for `length`, as many a second as the build bears; each may take `timeout`.
pub(crate) fn load(length: Duration, timeout: Duration) -> JoinHandle<Report> {
    let mut target = through(&format!("{MIRROR}.demo"), "/", Protocol::Http1);
    target.timeout = timeout;
    let pace = Pace::Open { workers: 4000, rate: by_build(50, 200), length };
    tokio::spawn(async move { load::run(&target, pace).await })
}

pub(crate) fn deployments(cluster: &Cluster, namespace: &str) -> Api<Deployment> {
    Api::namespaced(cluster.client.clone(), namespace)
}

pub(crate) async fn scale(cluster: &Cluster, name: &str, replicas: i32) {
    deployments(cluster, EXTENSION)
        .patch_scale(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "replicas": replicas } })),
        )
        .await
        .unwrap();
}

/// Waits until a Deployment has this many ready Pods.
pub(crate) async fn ready(cluster: &Cluster, name: &str, replicas: i32) {
    eventually(&format!("{replicas} ready Pods of {name}"), async || {
        let found = deployments(cluster, EXTENSION).get(name).await.unwrap();
        let now = found.status.and_then(|s| s.ready_replicas).unwrap_or(0);
        (now == replicas).then_some(())
    })
    .await;
}

/// `mesh sandbox`: its output.
pub(crate) fn sandbox(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .arg("sandbox")
        .args(args)
        .arg("--data-dir")
        .arg(demo().data.join("sandbox"))
        .output()
        .unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(output.status.success(), "mesh sandbox {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The process of the gateway's only container in east; none while it does not run.
pub(crate) fn gateway_process() -> Option<u32> {
    let status = sandbox(&["status", "east"]);
    let row = status.lines().find(|l| l.contains("/linkerd-gateway-"))?;
    row.split_whitespace().nth(2)?.parse().ok()
}

/// Sends a signal, by its short name.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "cannot send {name} to {process}");
}
