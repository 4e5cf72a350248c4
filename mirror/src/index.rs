//! # The mirror's index
//!
//! Job: what is known of the local cluster and of every exporting one, and, for each exported Service,
//! which local objects there should be and what to write to get there. Pure.
//! May touch: objects and work queues. Must not touch: the network, clocks.
//! Callers: watches feed it (`feeds.rs`), `term.rs` asks it.

pub(crate) mod desired;
pub(crate) mod plan;

use desired::Desired;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::ResourceExt;
use mesh_cluster::requeue::Queue;
use mesh_k8s::{annotations, labels};
use mesh_link::{Link, probe::Health};
use plan::Plan;
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

/// A piece of work for a Link. Federated members will be a second variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Work {
    /// Make the mirror of this remote Service as it should be.
    Mirror(Key),
}

/// What is known of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayView {
    /// Sorted; empty if nothing resolved.
    pub(crate) ips: Arc<[IpAddr]>,
    /// Whether the first look-up has ended.
    pub(crate) known: bool,
    /// Why nothing resolved.
    pub(crate) error: Option<String>,
    pub(crate) health: Health,
}

impl Default for GatewayView {
    fn default() -> Self {
        Self { ips: Arc::new([]), known: false, error: None, health: Health::Unknown }
    }
}

/// Everything known.
#[derive(Debug, Default)]
pub(crate) struct World {
    local: Local,
    links: HashMap<String, Exporter>,
}

/// What is known of our own cluster: mirrors, and which namespaces exist.
#[derive(Debug, Default)]
struct Local {
    services: Option<HashMap<Key, Service>>,
    endpoints: Option<HashMap<Key, Endpoints>>,
    /// Without those that are being deleted.
    namespaces: Option<HashSet<String>>,
}

/// What is known of an exporting cluster.
#[derive(Debug)]
struct Exporter {
    link: Arc<Link>,
    /// Exported Services, the mirrorable part.
    services: Option<HashMap<Key, Service>>,
    /// Services with at least one ready address.
    served: Option<HashSet<Key>>,
    gateway: GatewayView,
    /// Services that the Link's status speaks of; they may have gone while nobody looked.
    told: Vec<Key>,
    queue: Queue<Work>,
}

/// Links come and go.
impl World {
    /// Starts to know a Link's exporting cluster, from nothing.
    pub(crate) fn add_link(&mut self, link: Arc<Link>, told: Vec<Key>, queue: Queue<Work>) {
        let gateway = GatewayView::default();
        let exporter =
            Exporter { link: link.clone(), services: None, served: None, gateway, told, queue };
        self.links.insert(link.name.clone(), exporter);
    }

    /// Forgets it.
    pub(crate) fn remove_link(&mut self, link: &str) {
        self.links.remove(link);
    }
}

/// Facts of exporting clusters.
impl World {
    pub(crate) fn remote_service(&mut self, link: &str, service: Service) {
        let Some(exporter) = self.links.get_mut(link) else { return };
        let key = Key::of(&service);
        let Some(services) = &mut exporter.services else { return };
        match exporter.link.selectors.mode(service.labels()) {
            Some(_) => drop(services.insert(key.clone(), trimmed(service))),
            None if services.remove(&key).is_none() => return,
            None => {}
        }
        exporter.queue.push(Work::Mirror(key));
    }

    pub(crate) fn remote_service_gone(&mut self, link: &str, key: Key) {
        let Some(exporter) = self.links.get_mut(link) else { return };
        if exporter.services.as_mut().and_then(|s| s.remove(&key)).is_some() {
            exporter.queue.push(Work::Mirror(key));
        }
    }

    pub(crate) fn remote_services(&mut self, link: &str, all: Vec<Service>) {
        let Some(exporter) = self.links.get_mut(link) else { return };
        let selectors = &exporter.link.selectors;
        let exported = all.into_iter().filter(|s| selectors.mode(s.labels()).is_some());
        let before =
            exporter.services.replace(exported.map(|s| (Key::of(&s), trimmed(s))).collect());
        for key in before.unwrap_or_default().into_keys() {
            exporter.queue.push(Work::Mirror(key));
        }
        self.push_all(link);
    }

    pub(crate) fn remote_endpoints(&mut self, link: &str, key: Key, served: bool) {
        let Some(exporter) = self.links.get_mut(link) else { return };
        let Some(all) = &mut exporter.served else { return };
        let changed = if served { all.insert(key.clone()) } else { all.remove(&key) };
        let exported = exporter.services.as_ref().is_some_and(|s| s.contains_key(&key));
        if changed && exported {
            exporter.queue.push(Work::Mirror(key));
        }
    }

    pub(crate) fn remote_endpoints_all(&mut self, link: &str, served: HashSet<Key>) {
        if let Some(exporter) = self.links.get_mut(link) {
            exporter.served = Some(served);
            self.push_all(link);
        }
    }

    pub(crate) fn gateway(&mut self, link: &str, view: GatewayView) {
        let Some(exporter) = self.links.get_mut(link) else { return };
        if exporter.gateway != view {
            exporter.gateway = view;
            self.push_all(link);
        }
    }
}

/// Facts of the local cluster. Only objects with the mirror label come in here.
impl World {
    pub(crate) fn local_service(&mut self, service: Service) {
        self.push_owner(&service);
        put(&mut self.local.services, service);
    }

    pub(crate) fn local_service_gone(&mut self, key: &Key) {
        if let Some(gone) = self.local.services.as_mut().and_then(|s| s.remove(key)) {
            self.push_owner(&gone);
        }
    }

    pub(crate) fn local_services(&mut self, all: Vec<Service>) {
        self.local.services = Some(all.into_iter().map(|s| (Key::of(&s), s)).collect());
        self.push_everything();
    }

    pub(crate) fn local_endpoints(&mut self, endpoints: Endpoints) {
        self.push_owner(&endpoints);
        put(&mut self.local.endpoints, endpoints);
    }

    pub(crate) fn local_endpoints_gone(&mut self, key: &Key) {
        if let Some(gone) = self.local.endpoints.as_mut().and_then(|e| e.remove(key)) {
            self.push_owner(&gone);
        }
    }

    pub(crate) fn local_endpoints_all(&mut self, all: Vec<Endpoints>) {
        self.local.endpoints = Some(all.into_iter().map(|e| (Key::of(&e), e)).collect());
        self.push_everything();
    }

    pub(crate) fn namespace(&mut self, name: &str, exists: bool) {
        let Some(all) = &mut self.local.namespaces else { return };
        if exists && !all.insert(name.to_owned()) {
            return;
        }
        // One that goes is told of twice: when it begins to go, and when its name is free again.
        if !exists {
            all.remove(name);
        }
        for exporter in self.links.values() {
            let keys = exporter.services.iter().flat_map(HashMap::keys);
            for key in keys.filter(|k| k.namespace == name) {
                exporter.queue.push(Work::Mirror(key.clone()));
            }
        }
    }

    pub(crate) fn namespaces(&mut self, all: HashSet<String>) {
        self.local.namespaces = Some(all);
        self.push_everything();
    }
}

/// Answers.
impl World {
    /// What to write for a remote Service's mirror. `None` while too little is known to decide.
    pub(crate) fn plan(&self, link: &str, key: &Key) -> Option<Plan> {
        let exporter = self.links.get(link)?;
        if !self.is_complete(exporter) {
            return None;
        }
        let mirror =
            Key::new(&key.namespace, &mesh_k8s::names::mirror(&key.name, &exporter.link.cluster));
        let desired = self.desired(exporter, key)?;
        let service = self.local.services.as_ref()?.get(&mirror);
        let endpoints = self.local.endpoints.as_ref()?.get(&mirror);
        Some(plan::plan(&exporter.link, &mirror, desired, service, endpoints))
    }

    fn desired(&self, exporter: &Exporter, key: &Key) -> Option<Desired> {
        let Some(service) = exporter.services.as_ref()?.get(key) else {
            return Some(Desired::Absent);
        };
        let served = exporter.served.as_ref()?.contains(key);
        let namespace = self.local.namespaces.as_ref()?.contains(&key.namespace);
        Some(desired::desired(&exporter.link, service, served, namespace, &exporter.gateway))
    }

    /// True once every list that a decision needs is in.
    fn is_complete(&self, exporter: &Exporter) -> bool {
        let local = &self.local;
        local.services.is_some()
            && local.endpoints.is_some()
            && local.namespaces.is_some()
            && exporter.services.is_some()
            && exporter.served.is_some()
            && (exporter.link.gateway.is_none() || exporter.gateway.known)
    }

    fn push_everything(&self) {
        for link in self.links.keys() {
            self.push_all(link);
        }
    }

    /// Every exported Service, and every mirror that is here already: some may be orphans.
    fn push_all(&self, link: &str) {
        let Some(exporter) = self.links.get(link) else { return };
        if !self.is_complete(exporter) {
            return;
        }
        for key in exporter.services.iter().flat_map(HashMap::keys).chain(&exporter.told) {
            exporter.queue.push(Work::Mirror(key.clone()));
        }
        for mirror in self.local.services.iter().flat_map(HashMap::values) {
            if let Some(key) = origin(mirror, &exporter.link.cluster) {
                exporter.queue.push(Work::Mirror(key));
            }
        }
    }

    fn push_owner<K: kube::Resource>(&self, mirror: &K) {
        for exporter in self.links.values() {
            if let Some(key) = origin(mirror, &exporter.link.cluster) {
                exporter.queue.push(Work::Mirror(key));
            }
        }
    }
}

/// The remote Service that an object of ours mirrors, if it mirrors one of this cluster. Endpoint
/// mirrors of headless Services are not told apart by name and are left alone.
fn origin<K: kube::Resource>(mirror: &K, cluster: &str) -> Option<Key> {
    if !desired::is_ours(mirror, cluster)
        || mirror.meta().labels.as_ref()?.contains_key(labels::HEADLESS_MIRROR)
    {
        return None;
    }
    let name = mirror.meta().name.as_deref()?.strip_suffix(cluster)?.strip_suffix('-')?;
    Some(Key::new(mirror.meta().namespace.as_deref()?, name))
}

/// Keeps the newer of two versions: an answer to our own write comes before the watch tells of it, and
/// what the watch tells may be older. Versions that are no numbers are taken as they come.
fn put<K: kube::Resource>(all: &mut Option<HashMap<Key, K>>, object: K) {
    let Some(all) = all else { return };
    let key = Key::of(&object);
    let version = |o: &K| o.meta().resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    let newer = match (all.get(&key).and_then(version), version(&object)) {
        (Some(known), Some(new)) => new >= known,
        _ => true,
    };
    if newer {
        all.insert(key, object);
    }
}

/// The part of a remote Service that mirrors are made from.
fn trimmed(mut service: Service) -> Service {
    service.status = None;
    service.metadata.owner_references = None;
    service.metadata.finalizers = None;
    if let Some(all) = &mut service.metadata.annotations {
        all.remove(annotations::LAST_APPLIED);
    }
    if let Some(spec) = &mut service.spec {
        spec.selector = None;
        spec.cluster_ips = None;
        spec.external_ips = None;
        spec.load_balancer_source_ranges = None;
    }
    service
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
