//! # Controllers
//!
//! Job: what a cluster does by itself: service accounts, namespace finalisation, Deployments and ReplicaSets,
//! Endpoints and EndpointSlices, LoadBalancer addresses, scheduling, garbage collection. Watches feed one
//! world, touched keys go into one queue, a few workers reconcile key by key.
//! May touch: the cluster's own API as a client. Must not touch: the store behind it.
//! Callers: the API server's process.

mod collect;
mod deployment;
mod namespaces;
mod owners;
mod queue;
mod reconcile;
mod replica_set;
mod slices;
mod wiring;
mod world;

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use kube::Client;
use parking_lot::Mutex;
use queue::Queue;
use world::World;

/// What the controllers have to know of their cluster.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// First address for LoadBalancer Services; the following ones are used upward.
    pub first_balancer: Ipv4Addr,
    /// PEM of the cluster's certificate authority, for the ConfigMap `kube-root-ca.crt`.
    pub ca_pem: String,
}

/// How many keys are worked on at once: a bound on connections, enough to hide a round trip.
const WORKERS: usize = 6;

/// What a worker can look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Namespace(String),
    Deployment(String, String),
    ReplicaSet(String, String),
    Service(String, String),
    Withdraw(String, String),
    Balancer(String, String),
    Schedule(String, String),
    Collect(String),
}

pub(crate) struct Controllers {
    pub(crate) client: Client,
    pub(crate) config: ControllersConfig,
    pub(crate) world: Mutex<World>,
    pub(crate) owners: Mutex<owners::Owners>,
    pub(crate) queue: Arc<Queue<Key>>,
    /// Kinds (`apiVersion`, `kind`) whose metadata is watched for the garbage collector.
    pub(crate) watched: Mutex<HashSet<(String, String)>>,
    /// Stores that have not had their first list; nothing is decided before.
    pub(crate) unlisted: std::sync::atomic::AtomicUsize,
    pub(crate) listed: tokio::sync::Notify,
}

/// Runs all controllers until the returned future is dropped; it never ends by itself.
pub async fn run(client: Client, config: ControllersConfig) {
    let controllers = Arc::new(Controllers {
        client,
        config,
        world: Mutex::default(),
        owners: Mutex::default(),
        queue: Queue::new(),
        watched: Mutex::default(),
        unlisted: std::sync::atomic::AtomicUsize::new(0),
        listed: tokio::sync::Notify::new(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    wiring::spawn_watches(&controllers, &mut tasks);
    for _ in 0..WORKERS {
        let controllers = controllers.clone();
        tasks.spawn(async move { work(controllers).await });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller task ended");
        }
    }
}

async fn work(controllers: Arc<Controllers>) {
    controllers.synced().await;
    loop {
        let key = controllers.queue.next().await;
        let outcome = controllers.reconcile(&key).await;
        if let Err(error) = &outcome {
            tracing::debug!(?key, %error, "will be tried again");
        }
        controllers.queue.done(key, outcome.is_ok());
    }
}

impl Controllers {
    async fn synced(&self) {
        loop {
            let listed = self.listed.notified();
            tokio::pin!(listed);
            listed.as_mut().enable();
            if self.unlisted.load(std::sync::atomic::Ordering::Acquire) == 0 {
                return;
            }
            listed.await;
        }
    }

    async fn reconcile(self: &Arc<Self>, key: &Key) -> Result<(), kube::Error> {
        match key {
            Key::Namespace(name) => self.namespace(name).await,
            Key::Deployment(ns, name) => self.deployment(ns, name).await,
            Key::ReplicaSet(ns, name) => self.replica_set(ns, name).await,
            Key::Service(ns, name) => self.service(ns, name).await,
            Key::Withdraw(ns, name) => self.withdraw(ns, name).await,
            Key::Balancer(ns, name) => self.balancer(ns, name).await,
            Key::Schedule(ns, name) => self.schedule(ns, name).await,
            Key::Collect(uid) => self.collect(uid).await,
        }
    }
}

/// Absence is no failure: what was to be changed or deleted is gone, or what was to be made is there.
pub(crate) fn settled<T>(
    result: Result<T, kube::Error>,
    codes: &[u16],
) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(None),
        Err(error) => Err(error),
    }
}
