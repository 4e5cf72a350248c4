//! # The index
//!
//! Job: hold what matters of Services, slices, Pods, Servers, Nodes and owners; build the views that
//! subscribers asked for, and rebuild just those that a change can touch.
//! May touch: memory, `watch` channels through `view`. Must not touch: the API server, gRPC, time.
//! Callers: `watches` (feeds), `serve` (subscribes).

pub(crate) mod pod;
pub(crate) mod service;
#[cfg(test)]
mod tests;

use crate::{
    Config, endpoint,
    endpoint::{PodPort, Unusable},
    error::Refusal,
    profile,
    view::{Entry, Snapshot, View},
};
use mesh_cluster::views::Views;
use mesh_model::{
    authority::{NameAddr, ServiceName},
    profile::Profile,
    selector::Selector,
};
use pod::{OpaqueServer, Owner, PodInfo};
use service::{Kind, ServiceInfo, SliceEndpoint, SliceInfo, Target};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};
use tokio::sync::watch;

/// Namespace and name of an object.
type ObjectName = (String, String);

/// Everything that destination look-ups are answered from.
pub struct DestinationIndex {
    config: Arc<Config>,
    services: HashMap<ServiceName, ServiceInfo>,
    by_cluster_ip: HashMap<IpAddr, HashSet<ServiceName>>,
    slices: HashMap<ObjectName, SliceInfo>,
    slices_of: HashMap<ServiceName, HashSet<String>>,
    pods: HashMap<ObjectName, PodInfo>,
    by_pod_ip: HashMap<IpAddr, HashSet<ObjectName>>,
    /// Services whose slices name a Pod.
    services_of_pod: HashMap<ObjectName, HashSet<ServiceName>>,
    servers: BTreeMap<ObjectName, OpaqueServer>,
    zones: HashMap<String, Arc<str>>,
    /// Owners of ReplicaSets and Jobs: (namespace, the object) -> its owner.
    owners: HashMap<(String, Owner), Owner>,
    endpoints: Views<ServiceName, EndpointsKey, View<Snapshot>>,
    service_profiles: Views<ServiceName, ProfileKey, View<Profile>>,
    address_profiles: Views<IpAddr, AddressKey, View<Profile>>,
}

/// A look-up of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointsKey {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: NonZeroU16,
    /// Only the endpoint with this hostname.
    pub instance: Option<String>,
    /// Set for gateways: only Services that this selects.
    pub export: Option<Arc<Selector>>,
}

/// A look-up of a Service's profile has the same parts.
pub type ProfileKey = EndpointsKey;

/// A look-up of an address's profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey {
    /// The address.
    pub addr: SocketAddr,
    /// Set for gateways.
    pub export: Option<Arc<Selector>>,
}

impl DestinationIndex {
    /// An empty index.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            services: HashMap::new(),
            by_cluster_ip: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            pods: HashMap::new(),
            by_pod_ip: HashMap::new(),
            services_of_pod: HashMap::new(),
            servers: BTreeMap::new(),
            zones: HashMap::new(),
            owners: HashMap::new(),
            endpoints: Views::default(),
            service_profiles: Views::default(),
            address_profiles: Views::default(),
        }
    }

    // === what subscribers ask ===

    /// The endpoints of a Service's port, now and from now on.
    pub fn endpoints(&mut self, key: EndpointsKey) -> watch::Receiver<View<Snapshot>> {
        let mut views = std::mem::take(&mut self.endpoints);
        let receiver =
            views.subscribe(key.service.clone(), key.clone(), || self.build_endpoints(&key, None));
        self.endpoints = views;
        receiver
    }

    /// The profile of a Service's port, or of one of its instances.
    pub fn service_profile(&mut self, key: ProfileKey) -> watch::Receiver<View<Profile>> {
        let mut views = std::mem::take(&mut self.service_profiles);
        let receiver =
            views.subscribe(key.service.clone(), key.clone(), || self.build_profile(&key));
        self.service_profiles = views;
        receiver
    }

    /// The profile of an address: a Service's, a Pod's, or nobody's; the answer follows if that changes.
    pub fn address_profile(&mut self, key: AddressKey) -> watch::Receiver<View<Profile>> {
        let mut views = std::mem::take(&mut self.address_profiles);
        let receiver =
            views.subscribe(key.addr.ip(), key.clone(), || self.build_address_profile(&key));
        self.address_profiles = views;
        receiver
    }

    /// The zone of a node.
    pub fn zone(&self, node: &str) -> Option<Arc<str>> {
        self.zones.get(node).cloned()
    }

    // === how views are built ===

    fn build_endpoints(&self, key: &EndpointsKey, last: Option<&Snapshot>) -> View<Snapshot> {
        let service = self.visible(&key.service, key.export.as_deref())?;
        match service.kind {
            Kind::Local => {}
            Kind::ExternalName => return Err(Refusal::ExternalName(key.service.clone())),
            Kind::Remote => return Err(Refusal::RemoteDiscovery(key.service.clone())),
        }
        let port = key.port.get();
        let mut endpoints = BTreeMap::new();
        for slice in self.slices_of(&key.service) {
            let Some(target) = slice.target_port(service, port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| wanted(e, key.instance.as_deref())) {
                for (ip, mut entry) in self.entries(slice, endpoint, target, key.port, service) {
                    let addr = SocketAddr::new(ip, target);
                    // Equal metadata keeps its allocation, which many clients' snapshots share.
                    if let Some(old) = last.and_then(|l| l.endpoints.get(&addr))
                        && old.metadata == entry.metadata
                    {
                        entry.metadata = old.metadata.clone();
                    }
                    endpoints.insert(addr, entry);
                }
            }
        }
        let labels = Arc::new(set_labels(&key.service, service));
        Ok(Arc::new(Snapshot { endpoints, labels, local_only: service.local_only }))
    }

    /// The usable addresses of one endpoint of a slice.
    fn entries(
        &self,
        slice: &SliceInfo,
        endpoint: &SliceEndpoint,
        target: u16,
        requested: NonZeroU16,
        service: &ServiceInfo,
    ) -> Vec<(IpAddr, Entry)> {
        let entry = |metadata, zone, node| Entry {
            metadata: Arc::new(metadata),
            zone,
            node,
            for_zones: endpoint.for_zones.clone(),
        };
        match &endpoint.target {
            Target::Pod(namespace, name) => {
                let at = (namespace.clone(), name.clone());
                let Some(pod) = self.pods.get(&at) else { return Vec::new() };
                let metadata = match self.pod_port(&at, pod, target).metadata(&self.config) {
                    Ok(metadata) => metadata,
                    Err(Unusable(reason)) => {
                        tracing::error!(pod = name, namespace, reason, "Pod left out");
                        return Vec::new();
                    }
                };
                let node = pod.node.clone().or_else(|| endpoint.node.clone());
                let of_node = || node.as_deref().and_then(|n| self.zone(n));
                let zone = endpoint.zone.clone().or_else(of_node);
                let ips = endpoint.ips.iter().filter(|ip| self.offers(**ip, pod));
                ips.map(|ip| (*ip, entry(metadata.clone(), zone.clone(), node.clone()))).collect()
            }
            Target::None => {
                let name = slice.remote_fq_name.as_ref().or(service.remote_fq_name.as_ref());
                let name = name.and_then(|n| n.parse().ok());
                let authority = name.map(|name| NameAddr { name, port: requested });
                let identity = slice.gateway_identity.as_deref();
                match endpoint::of_gateway(identity, authority, self.config.meshed_http2) {
                    Ok(metadata) => {
                        let zone = endpoint.zone.clone();
                        let all = endpoint.ips.iter();
                        all.map(|ip| (*ip, entry(metadata.clone(), zone.clone(), None))).collect()
                    }
                    Err(Unusable(reason)) => {
                        tracing::error!(service = %slice.service, reason, "gateway address left out");
                        Vec::new()
                    }
                }
            }
            Target::Other => Vec::new(),
        }
    }

    fn build_profile(&self, key: &ProfileKey) -> View<Profile> {
        let service = self.visible(&key.service, key.export.as_deref())?;
        if service.kind == Kind::ExternalName {
            return Err(Refusal::ExternalName(key.service.clone()));
        }
        let port = key.port.get();
        let Some(instance) = key.instance.as_deref() else {
            let profile = profile::of_service(&self.config, &key.service, service, port);
            return Ok(Arc::new(profile));
        };
        for slice in self.slices_of(&key.service) {
            let Some(target) = slice.target_port(service, port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| wanted(e, Some(instance))) {
                if let (Target::Pod(ns, name), Some(ip)) = (&endpoint.target, endpoint.ips.first())
                {
                    let at = (ns.clone(), name.clone());
                    let Some(pod) = self.pods.get(&at) else { continue };
                    let addr = SocketAddr::new(*ip, target);
                    let pod = self.pod_port(&at, pod, target);
                    return Ok(Arc::new(profile::of_pod(&self.config, addr, &pod)));
                }
            }
        }
        Err(Refusal::NoInstance(key.service.clone(), instance.to_owned()))
    }

    fn build_address_profile(&self, key: &AddressKey) -> View<Profile> {
        let ip = key.addr.ip();
        let claims = self.by_cluster_ip.get(&ip);
        if claims.is_some_and(|services| services.len() > 1) {
            return Err(Refusal::Ambiguous(ip));
        }
        if let Some(name) = claims.and_then(|services| services.iter().next()) {
            let service = self.visible(name, key.export.as_deref())?;
            let profile = profile::of_service(&self.config, name, service, key.addr.port());
            return Ok(Arc::new(profile));
        }
        if key.export.is_some() {
            return Err(Refusal::NotExported);
        }
        match self.pod_at(key.addr)? {
            Some((at, pod, port)) => {
                let pod = self.pod_port(at, pod, port);
                let addr = SocketAddr::new(ip, key.addr.port());
                Ok(Arc::new(profile::of_pod(&self.config, addr, &pod)))
            }
            None => Ok(Arc::new(profile::of_address(&self.config, key.addr))),
        }
    }

    /// The Pod at an address: by Pod IP, else by host IP and host port, with its container port.
    fn pod_at(&self, addr: SocketAddr) -> Result<Option<(&ObjectName, &PodInfo, u16)>, Refusal> {
        let mut by_ip = Vec::new();
        let mut by_host = Vec::new();
        for at in self.by_pod_ip.get(&addr.ip()).into_iter().flatten() {
            let Some(pod) = self.pods.get(at) else { continue };
            if !pod.addressable {
                continue;
            }
            if pod.ips.contains(&addr.ip()) {
                by_ip.push((at, pod, addr.port()));
            } else if let Some(port) = pod.host_port(addr.port()) {
                by_host.push((at, pod, port));
            }
        }
        match (by_ip.as_slice(), by_host.as_slice()) {
            ([one], _) | ([], [one]) => Ok(Some(*one)),
            ([], []) => Ok(None),
            _ => Err(Refusal::Ambiguous(addr.ip())),
        }
    }

    /// The Service, if it exists and the asker may see it. For a gateway everything but an exported
    /// Service of this cluster is the same refusal, so that nothing can be learned from the answer.
    fn visible(
        &self,
        name: &ServiceName,
        export: Option<&Selector>,
    ) -> Result<&ServiceInfo, Refusal> {
        let service = self.services.get(name);
        match export {
            None => service.ok_or_else(|| Refusal::NoService(name.clone())),
            Some(selector) => service
                .filter(|s| !s.is_mirror() && selector.matches(&s.labels))
                .ok_or(Refusal::NotExported),
        }
    }

    fn pod_port<'a>(&'a self, at: &'a ObjectName, pod: &'a PodInfo, port: u16) -> PodPort<'a> {
        let (namespace, name) = at;
        let owner = pod.owner.as_ref().map(|owner| {
            let above = self.owners.get(&(namespace.clone(), owner.clone()));
            above.unwrap_or(owner)
        });
        let first = (namespace.clone(), String::new());
        let mut servers = self
            .servers
            .range(first..)
            .take_while(|((ns, _), _)| ns == namespace)
            .map(|(_, server)| server);
        let server_opaque = servers.any(|server| server.selects(pod, port));
        PodPort { namespace, name, pod, port, owner, server_opaque }
    }

    /// Address families: IPv6 only where enabled, and then a Pod that has one is reached by IPv6 alone.
    fn offers(&self, ip: IpAddr, pod: &PodInfo) -> bool {
        match ip {
            IpAddr::V6(_) => self.config.enable_ipv6,
            IpAddr::V4(_) => !(self.config.enable_ipv6 && pod.ips.iter().any(IpAddr::is_ipv6)),
        }
    }

    fn slices_of(&self, service: &ServiceName) -> impl Iterator<Item = &SliceInfo> {
        let names = self.slices_of.get(service).into_iter().flatten();
        let at = |name: &String| (service.namespace.clone(), name.clone());
        names.filter_map(move |name| self.slices.get(&at(name)))
    }
}

// === how facts come in; each method leaves all views that it can have changed up to date ===

impl DestinationIndex {
    pub(crate) fn set_service(&mut self, name: ServiceName, service: Option<ServiceInfo>) {
        if self.services.get(&name) == service.as_ref() {
            return;
        }
        let old = match service.clone() {
            Some(new) => self.services.insert(name.clone(), new),
            None => self.services.remove(&name),
        };
        let mut ips = HashSet::new();
        for ip in old.iter().flat_map(|s| &s.cluster_ips) {
            remove_from(&mut self.by_cluster_ip, ip, &name);
            ips.insert(*ip);
        }
        for ip in service.iter().flat_map(|s| &s.cluster_ips) {
            self.by_cluster_ip.entry(*ip).or_default().insert(name.clone());
            ips.insert(*ip);
        }
        self.refresh_services([name]);
        self.refresh_addresses(ips);
    }

    pub(crate) fn set_slice(&mut self, at: ObjectName, slice: Option<SliceInfo>) {
        if self.slices.get(&at) == slice.as_ref() {
            return;
        }
        let old = match slice.clone() {
            Some(new) => self.slices.insert(at.clone(), new),
            None => self.slices.remove(&at),
        };
        let mut touched = HashSet::new();
        if let Some(old) = old {
            remove_from(&mut self.slices_of, &old.service, &at.1);
            touched.insert(old.service.clone());
            // A Pod stays linked while another slice of the Service names it.
            let left: HashSet<_> = self.slices_of(&old.service).flat_map(pods_of).collect();
            for pod in pods_of(&old).filter(|pod| !left.contains(pod)) {
                remove_from(&mut self.services_of_pod, &pod, &old.service);
            }
        }
        if let Some(new) = slice {
            self.slices_of.entry(new.service.clone()).or_default().insert(at.1);
            for pod in pods_of(&new) {
                self.services_of_pod.entry(pod).or_default().insert(new.service.clone());
            }
            touched.insert(new.service);
        }
        self.refresh_services(touched);
    }

    pub(crate) fn set_pod(&mut self, at: ObjectName, pod: Option<PodInfo>) {
        if self.pods.get(&at) == pod.as_ref() {
            return;
        }
        let old = match pod.clone() {
            Some(new) => self.pods.insert(at.clone(), new),
            None => self.pods.remove(&at),
        };
        let mut ips = HashSet::new();
        for ip in old.iter().flat_map(addresses) {
            remove_from(&mut self.by_pod_ip, ip, &at);
            ips.insert(*ip);
        }
        for ip in pod.iter().flat_map(addresses) {
            self.by_pod_ip.entry(*ip).or_default().insert(at.clone());
            ips.insert(*ip);
        }
        let services = self.services_of_pod.get(&at).cloned().unwrap_or_default();
        self.refresh_services(services);
        self.refresh_addresses(ips);
    }

    pub(crate) fn set_server(&mut self, at: ObjectName, server: Option<OpaqueServer>) {
        if self.servers.get(&at) == server.as_ref() {
            return;
        }
        let namespace = at.0.clone();
        match server {
            Some(new) => self.servers.insert(at, new),
            None => self.servers.remove(&at),
        };
        self.refresh_namespace(&namespace);
    }

    pub(crate) fn set_zone(&mut self, node: String, zone: Option<Arc<str>>) {
        if self.zones.get(&node) == zone.as_ref() {
            return;
        }
        match zone {
            Some(zone) => self.zones.insert(node, zone),
            None => self.zones.remove(&node),
        };
        let all = self.endpoints.subjects(|_| true);
        self.refresh_services(all);
    }

    pub(crate) fn set_owner(&mut self, namespace: String, of: Owner, owner: Option<Owner>) {
        let at = (namespace.clone(), of);
        if self.owners.get(&at) == owner.as_ref() {
            return;
        }
        match owner {
            Some(owner) => self.owners.insert(at, owner),
            None => self.owners.remove(&at),
        };
        self.refresh_namespace(&namespace);
    }

    /// Names of all objects of a kind, for what a new list no longer has.
    pub(crate) fn service_names(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }

    pub(crate) fn slice_names(&self) -> Vec<ObjectName> {
        self.slices.keys().cloned().collect()
    }

    pub(crate) fn pod_names(&self) -> Vec<ObjectName> {
        self.pods.keys().cloned().collect()
    }

    pub(crate) fn server_names(&self) -> Vec<ObjectName> {
        self.servers.keys().cloned().collect()
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        self.zones.keys().cloned().collect()
    }

    pub(crate) fn owned(&self, kind: &str) -> Vec<(String, Owner)> {
        self.owners.keys().filter(|(_, owner)| owner.kind == kind).cloned().collect()
    }

    fn refresh_namespace(&mut self, namespace: &str) {
        let mut services = self.endpoints.subjects(|s| s.namespace == namespace);
        services.extend(self.service_profiles.subjects(|s| s.namespace == namespace));
        self.refresh_services(services.into_iter().collect::<HashSet<_>>());
        let here = |ip: &IpAddr| {
            self.by_pod_ip.get(ip).is_some_and(|pods| pods.iter().any(|(ns, _)| ns == namespace))
        };
        let ips = self.address_profiles.subjects(here);
        self.refresh_addresses(ips);
    }

    fn refresh_services(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        let mut endpoints = std::mem::take(&mut self.endpoints);
        let mut profiles = std::mem::take(&mut self.service_profiles);
        for service in services {
            endpoints
                .refresh(&service, |key, last| self.build_endpoints(key, last.as_deref().ok()));
            profiles.refresh(&service, |key, _| self.build_profile(key));
        }
        self.endpoints = endpoints;
        self.service_profiles = profiles;
    }

    fn refresh_addresses(&mut self, ips: impl IntoIterator<Item = IpAddr>) {
        let mut profiles = std::mem::take(&mut self.address_profiles);
        for ip in ips {
            profiles.refresh(&ip, |key, _| self.build_address_profile(key));
        }
        self.address_profiles = profiles;
    }
}

fn wanted(endpoint: &SliceEndpoint, instance: Option<&str>) -> bool {
    instance.is_none_or(|name| endpoint.hostname.as_deref() == Some(name))
}

fn pods_of(slice: &SliceInfo) -> impl Iterator<Item = ObjectName> {
    slice.endpoints.iter().filter_map(|e| match &e.target {
        Target::Pod(namespace, name) => Some((namespace.clone(), name.clone())),
        Target::None | Target::Other => None,
    })
}

/// Every address under which a Pod may be asked for.
fn addresses(pod: &PodInfo) -> impl Iterator<Item = &IpAddr> {
    let hosts = pod.ports.iter().any(|p| p.host_port.is_some()).then_some(&pod.host_ips);
    pod.ips.iter().chain(hosts.into_iter().flatten())
}

fn set_labels(name: &ServiceName, service: &ServiceInfo) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("service".to_owned(), name.name.clone()),
        ("namespace".to_owned(), name.namespace.clone()),
    ]);
    if let Some(cluster) = service.labels.get(mesh_k8s::labels::MIRROR_CLUSTER_NAME) {
        labels.insert("target_cluster".to_owned(), cluster.clone());
        let mut parts = service.remote_fq_name.as_deref().unwrap_or_default().split('.');
        if let (Some(service), Some(namespace)) = (parts.next(), parts.next()) {
            labels.insert("target_service".to_owned(), service.to_owned());
            labels.insert("target_service_namespace".to_owned(), namespace.to_owned());
        }
    }
    labels
}

fn remove_from<K: std::hash::Hash + Eq + Clone, V: std::hash::Hash + Eq>(
    map: &mut HashMap<K, HashSet<V>>,
    key: &K,
    value: &V,
) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
