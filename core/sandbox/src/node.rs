//! # Node agent
//!
//! Job: runs the Pods of one cluster as child processes, serves cluster DNS, and forwards ClusterIPs and
//! LoadBalancer addresses. It keeps all of this going while the API server is away, and takes over the
//! Pods of an agent before it.
//! May touch: the API as a client, child processes, the cluster's folder, sockets in the cluster's range.
//! Must not touch: the store, other clusters. Callers: the `node` process of a cluster.

mod addresses;
mod board;
mod container;
mod env;
mod events;
mod forward;
pub(crate) mod launch;
mod mounts;
mod pod;
mod probe;
mod register;
pub(crate) mod services;
mod volumes;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use events::Events;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{Api, Client, Resource, ResourceExt, runtime::watcher};
use mesh_process::context;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{ClusterError, Programs, Range},
    feed::{Change, feed},
};
use addresses::Addresses;

/// What a node agent has to know.
#[derive(Clone)]
pub struct NodeConfig {
    /// Name of the Node object.
    pub name: String,
    /// The cluster's addresses.
    pub range: Range,
    /// Folder below which each Pod has its folder, with logs and volumes.
    pub pods_dir: PathBuf,
    /// What may run.
    pub programs: Programs,
    /// Suffix of all Service names, e.g. `cluster.local`.
    pub cluster_domain: String,
}

/// All objects of a kind that Pods refer to.
type View<K> = BTreeMap<ObjectKey, Arc<K>>;
/// Namespace and name.
type ObjectKey = (String, String);

/// The agent, shared by its Pods.
pub(crate) struct Agent {
    pub(crate) config: NodeConfig,
    pub(crate) client: Client,
    pub(crate) events: Events,
    /// Advances whenever a ConfigMap or Secret changes.
    pub(crate) changes: watch::Sender<u64>,
    maps: Mutex<View<ConfigMap>>,
    secrets: Mutex<View<Secret>>,
    addresses: Mutex<Addresses>,
    pods: Mutex<HashMap<String, Handle>>,
}

struct Handle {
    pod: watch::Sender<Arc<Pod>>,
    removed: CancellationToken,
}

/// Runs the agent; `ready` is called when the node is registered and its name service answers. Ends only with
/// an error.
///
/// # Errors
/// If an address or folder of the cluster cannot be used.
pub async fn run(
    client: Client,
    config: NodeConfig,
    ready: impl FnOnce() + Send,
) -> Result<(), ClusterError> {
    std::fs::create_dir_all(&config.pods_dir).map_err(|source| ClusterError::File {
        action: "create",
        path: config.pods_dir.clone(),
        source,
    })?;
    let zone = Arc::new(Mutex::new(crate::dns::Zone::new(&config.cluster_domain)));
    let dns = crate::dns::bind(config.range.dns(), zone.clone()).await?;
    let agent = Arc::new(Agent {
        events: Events::start(client.clone(), config.name.clone()),
        changes: watch::channel(0).0,
        maps: Mutex::default(),
        secrets: Mutex::default(),
        addresses: Mutex::new(Addresses::new(config.range)),
        pods: Mutex::default(),
        client: client.clone(),
        config,
    });
    agent.addresses.lock().recall(&agent.config.pods_dir);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(dns);
    tasks.spawn(services::follow(client.clone(), zone));
    tasks.spawn(keep::<ConfigMap>(agent.clone(), |a| &a.maps));
    tasks.spawn(keep::<Secret>(agent.clone(), |a| &a.secrets));
    register::register(&client, &agent.config).await;
    tasks.spawn(register::keep_registered(client, agent.config.clone()));
    tasks.spawn(agent.follow_pods());
    ready();
    tasks.join_next().await;
    Err(ClusterError::Internal("a task of the node agent ended".to_owned()))
}

/// Keeps a view of all objects of a kind that Pods refer to.
async fn keep<K>(agent: Arc<Agent>, view: fn(&Agent) -> &Mutex<View<K>>)
where
    K: Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let mut changes =
        Box::pin(feed(Api::<K>::all(agent.client.clone()), watcher::Config::default()));
    let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    while let Some(change) = changes.next().await {
        {
            let mut view = view(&agent).lock();
            match change {
                Change::Apply(object) => {
                    view.insert(key(&object), Arc::new(object));
                }
                Change::Delete(object) => {
                    view.remove(&key(&object));
                }
                Change::Replace(objects) => {
                    *view = objects.into_iter().map(|o| (key(&o), Arc::new(o))).collect();
                }
            }
        }
        agent.changes.send_modify(|n| *n += 1);
    }
}

impl Agent {
    async fn follow_pods(self: Arc<Self>) {
        let mine =
            watcher::Config::default().fields(&format!("spec.nodeName={}", self.config.name));
        let mut changes = Box::pin(feed(Api::<Pod>::all(self.client.clone()), mine));
        while let Some(change) = changes.next().await {
            match change {
                Change::Apply(pod) => self.apply(pod),
                Change::Delete(pod) => self.removed(&pod.uid().unwrap_or_default()),
                Change::Replace(pods) => {
                    let alive: HashSet<_> = pods.iter().filter_map(|p| p.uid()).collect();
                    let known: Vec<_> = self.pods.lock().keys().cloned().collect();
                    for uid in known.iter().filter(|uid| !alive.contains(*uid)) {
                        self.removed(uid);
                    }
                    self.clean_up(&alive);
                    pods.into_iter().for_each(|pod| self.apply(pod));
                }
            }
        }
    }

    fn apply(self: &Arc<Self>, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let mut pods = self.pods.lock();
        if let Some(handle) = pods.get(&uid) {
            handle.pod.send_replace(Arc::new(pod));
            return;
        }
        let dir = self.config.pods_dir.join(folder(&pod));
        let Some(ip) = self.addresses.lock().take(&dir) else {
            self.events.report(
                &pod,
                None,
                "Warning",
                "FailedCreatePodSandBox",
                "no address is left in the Pods' range, or the Pod's folder cannot be written"
                    .to_owned(),
            );
            return;
        };
        let place =
            env::Place { pod_ip: ip.to_string(), host_ip: self.config.range.node().to_string() };
        let (sender, receiver) = watch::channel(Arc::new(pod));
        let removed = CancellationToken::new();
        let task = pod::PodTask {
            agent: self.clone(),
            pod: receiver,
            removed: removed.clone(),
            dir,
            place,
        };
        tokio::spawn(task.run());
        pods.insert(uid, Handle { pod: sender, removed });
    }

    fn removed(&self, uid: &str) {
        if let Some(handle) = self.pods.lock().get(uid) {
            handle.removed.cancel();
        }
    }

    /// A Pod has ended; its address is free.
    pub(crate) fn forget(&self, uid: &str, ip: &str) {
        self.pods.lock().remove(uid);
        if let Ok(ip) = ip.parse() {
            self.addresses.lock().release(ip);
        }
    }

    /// Ends what Pods have left behind which went while no agent was there.
    fn clean_up(&self, alive: &HashSet<String>) {
        let known: HashSet<String> = self.pods.lock().keys().cloned().collect();
        for entry in std::fs::read_dir(&self.config.pods_dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.rsplit('_').next().unwrap_or_default();
            if alive.contains(uid) || known.contains(uid) {
                continue;
            }
            for file in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                if file.path().extension().is_some_and(|e| e == "run")
                    && let Some(record) = launch::recorded(&file.path())
                {
                    record.process.signal_group(rustix::process::Signal::KILL);
                }
            }
            self.addresses.lock().forget(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }

    /// Whether the Pod gets its ServiceAccount's token although no volume says so.
    pub(crate) fn automounts(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|s| s.automount_service_account_token) != Some(false)
    }

    /// What a program is told of the sandbox.
    pub(crate) fn context(
        &self,
        pod: &Pod,
        place: &env::Place,
        root: &Path,
    ) -> Vec<(String, String)> {
        let api = self.config.range.api();
        [
            (context::POD_IP, place.pod_ip.clone()),
            (context::POD_ROOT, root.to_string_lossy().into_owned()),
            (context::RESOLVER, self.config.range.dns().to_string()),
            (context::API, format!("https://{api}")),
            (context::INTERCEPTION, "none".to_owned()),
            ("KUBERNETES_SERVICE_HOST", api.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", api.port().to_string()),
            ("HOSTNAME", pod.name_any()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The folder of a Pod below the folder of all Pods.
pub(crate) fn folder(pod: &Pod) -> String {
    let namespace = pod.namespace().unwrap_or_default();
    format!("{namespace}_{}_{}", pod.name_any(), pod.uid().unwrap_or_default())
}

/// ConfigMaps and Secrets as a Pod sees them.
pub(crate) struct PodSources<'a> {
    agent: &'a Agent,
    namespace: String,
}

impl<'a> PodSources<'a> {
    pub(crate) fn of(agent: &'a Agent, pod: &Pod) -> Self {
        Self { agent, namespace: pod.namespace().unwrap_or_default() }
    }
}

impl env::Sources for PodSources<'_> {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.agent.maps.lock().get(&(self.namespace.clone(), name.to_owned())).cloned()
    }

    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.agent.secrets.lock().get(&(self.namespace.clone(), name.to_owned())).cloned()
    }
}
