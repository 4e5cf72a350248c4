//! # The inbound index
//!
//! Job: hold what matters of Pods, Servers, AuthorizationPolicies and authentications; build the policy
//! of each watched port, and publish it only when its value changes.
//! May touch: memory, `watch` channels. Must not touch: the API server, gRPC, time.
//! Callers: `watches` (feeds), `serve` (subscribes).

pub(crate) mod authorization;
pub(crate) mod server;
#[cfg(test)]
mod tests;
pub(crate) mod workload;

use crate::{Config, error::Refusal, index::ObjectName};
use authorization::{Authentications, IdentityDomain, PolicyInfo, Target};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_cluster::views::Views;
use mesh_k8s::policy::GROUP;
use mesh_model::{
    inbound::{
        Authentication, Authorization, DETECT_TIMEOUT, InboundRoute, NetworkMatch, ServerPolicy,
        ServerProtocol,
    },
    meta::{Meta, Resource},
    route::{PathMatch, RouteMatch},
};
use server::{Protocol, ServerInfo};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    sync::Arc,
};
use tokio::sync::watch;
use workload::Workload;

/// The policy of a port, or why there is none.
pub type PortView = Result<Arc<ServerPolicy>, Refusal>;

/// Everything that inbound policies are made of.
pub struct InboundIndex {
    config: Arc<Config>,
    workloads: BTreeMap<ObjectName, Workload>,
    servers: BTreeMap<ObjectName, ServerInfo>,
    policies: BTreeMap<ObjectName, PolicyInfo>,
    authentications: Authentications,
    ports: Views<ObjectName, NonZeroU16, PortView>,
}

impl InboundIndex {
    /// An empty index.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            workloads: BTreeMap::new(),
            servers: BTreeMap::new(),
            policies: BTreeMap::new(),
            authentications: Authentications::default(),
            ports: Views::default(),
        }
    }

    /// The policy of a Pod's port, now and from now on.
    pub fn port(
        &mut self,
        namespace: &str,
        pod: &str,
        port: NonZeroU16,
    ) -> watch::Receiver<PortView> {
        let at = (namespace.to_owned(), pod.to_owned());
        let mut ports = std::mem::take(&mut self.ports);
        let receiver = ports.subscribe(at.clone(), port, || self.build(&at, port));
        self.ports = ports;
        receiver
    }

    // === how policies are built ===

    fn build(&self, at: &ObjectName, port: NonZeroU16) -> PortView {
        let no_workload = || Refusal::NoWorkload(at.0.clone(), at.1.clone());
        let workload = self.workloads.get(at).ok_or_else(no_workload)?;
        let policy = match self.server_of(&at.0, workload, port.get()) {
            Some((name, server)) => self.of_server(&at.0, name, server, workload, port.get()),
            None => self.of_default(workload, port.get()),
        };
        Ok(Arc::new(policy))
    }

    /// The first Server, by age and then name, that selects the port.
    fn server_of<'a>(
        &'a self,
        namespace: &'a str,
        workload: &Workload,
        port: u16,
    ) -> Option<(&'a str, &'a ServerInfo)> {
        let here = in_namespace(&self.servers, namespace);
        let selecting = here.filter(|(_, server)| server.selects(workload, port));
        selecting.min_by_key(|(name, server)| (server.created, *name))
    }

    fn of_server(
        &self,
        namespace: &str,
        name: &str,
        server: &ServerInfo,
        workload: &Workload,
        port: u16,
    ) -> ServerPolicy {
        let routes = || self.http_routes(workload, port);
        let protocol = match server.protocol {
            Protocol::Unknown => ServerProtocol::Detect { http: routes(), timeout: DETECT_TIMEOUT },
            Protocol::Http1 => ServerProtocol::Http1(routes()),
            Protocol::Http2 => ServerProtocol::Http2(routes()),
            Protocol::Grpc => ServerProtocol::Grpc(Arc::new([grpc_fallback()])),
            Protocol::Opaque => ServerProtocol::Opaque,
            Protocol::Tls => ServerProtocol::Tls,
        };
        let resource = Resource {
            group: GROUP.to_owned(),
            kind: "server".to_owned(),
            name: name.to_owned(),
            ..Resource::default()
        };
        let implied = server.access.authorization(&self.config.cluster_networks);
        ServerPolicy {
            meta: Meta::Resource(resource.into()),
            protocol,
            authorizations: self.authorizations(namespace, name).chain(implied).collect(),
            rate_limit: None,
        }
    }

    /// What AuthorizationPolicies say of a Server, by the policies' names.
    fn authorizations<'a>(
        &'a self,
        namespace: &'a str,
        server: &'a str,
    ) -> impl Iterator<Item = Authorization> + 'a {
        let domain = IdentityDomain {
            control_namespace: &self.config.control_plane_namespace,
            trust_domain: &self.config.identity_domain,
        };
        let everywhere = matches_of([Ipv4Net::default().into(), Ipv6Net::default().into()]);
        let about = move |policy: &PolicyInfo| match &policy.target {
            Target::Server(name) => name == server,
            Target::Namespace => true,
            Target::Other => false,
        };
        let here = in_namespace(&self.policies, namespace).filter(move |(_, p)| about(p));
        here.filter_map(move |(name, policy)| {
            let made = policy.authorization(name, &self.authentications, domain, &everywhere);
            made.inspect_err(|reason| {
                tracing::debug!(namespace, name, reason, "AuthorizationPolicy lets nobody in");
            })
            .ok()
        })
    }

    fn of_default(&self, workload: &Workload, port: u16) -> ServerPolicy {
        let policy = workload.default_policy.unwrap_or(self.config.default_policy);
        let policy = match workload.require_identity.contains(port) {
            true => policy.authenticated(),
            false => policy,
        };
        let protocol = match workload.opaque.contains(port) {
            true => ServerProtocol::Opaque,
            false => ServerProtocol::Detect {
                http: self.http_routes(workload, port),
                timeout: DETECT_TIMEOUT,
            },
        };
        ServerPolicy {
            meta: Meta::built_in(policy.as_str()),
            protocol,
            authorizations: policy
                .authorization(&self.config.cluster_networks)
                .into_iter()
                .collect(),
            rate_limit: None,
        }
    }

    /// The routes of a port without explicit ones: everything, and the kubelet's probes, which must get
    /// through whatever the policy.
    fn http_routes(&self, workload: &Workload, port: u16) -> Arc<[InboundRoute]> {
        let probes = workload.probes.get(&port).filter(|_| !self.config.probe_networks.is_empty());
        let probe = probes.map(|paths| probe_route(paths, &self.config.probe_networks));
        [InboundRoute::fallback()].into_iter().chain(probe).collect()
    }
}

fn probe_route(paths: &BTreeSet<String>, networks: &[IpNet]) -> InboundRoute {
    let exactly = |path: &String| RouteMatch {
        path: Some(PathMatch::Exact(path.clone())),
        method: Some("GET".to_owned()),
        ..RouteMatch::default()
    };
    let kubelet = Authorization {
        meta: Meta::built_in("probe"),
        networks: matches_of(networks.iter().copied()),
        authentication: Authentication::Unauthenticated,
    };
    InboundRoute {
        meta: Meta::built_in("probe"),
        hosts: Vec::new(),
        authorizations: Arc::new([kubelet]),
        rules: vec![paths.iter().map(exactly).collect::<Vec<_>>().into()],
    }
}

fn grpc_fallback() -> InboundRoute {
    InboundRoute { rules: vec![vec![RouteMatch::default()].into()], ..InboundRoute::fallback() }
}

fn matches_of(networks: impl IntoIterator<Item = IpNet>) -> Vec<NetworkMatch> {
    networks.into_iter().map(|net| NetworkMatch { net, except: Vec::new() }).collect()
}

/// Objects of a namespace, by name.
fn in_namespace<'a, T>(
    all: &'a BTreeMap<ObjectName, T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a str, &'a T)> {
    let first = (namespace.to_owned(), String::new());
    all.range(first..)
        .take_while(move |((ns, _), _)| ns == namespace)
        .map(|((_, name), value)| (name.as_str(), value))
}

// === how facts come in; each method leaves all views that it can have changed up to date ===

impl InboundIndex {
    pub(crate) fn set_workload(&mut self, at: ObjectName, workload: Option<Workload>) {
        if set(&mut self.workloads, at.clone(), workload) {
            self.refresh([at]);
        }
    }

    pub(crate) fn set_server(&mut self, at: ObjectName, server: Option<ServerInfo>) {
        let namespace = at.0.clone();
        if set(&mut self.servers, at, server) {
            self.refresh_namespace(&namespace);
        }
    }

    pub(crate) fn set_policy(&mut self, at: ObjectName, policy: Option<PolicyInfo>) {
        let namespace = at.0.clone();
        if set(&mut self.policies, at, policy) {
            self.refresh_namespace(&namespace);
        }
    }

    /// Policies of any namespace may refer to an authentication.
    pub(crate) fn set_mesh_authentication(
        &mut self,
        at: ObjectName,
        object: Option<&mesh_k8s::policy::MeshTLSAuthentication>,
    ) {
        let domain = IdentityDomain {
            control_namespace: &self.config.control_plane_namespace,
            trust_domain: &self.config.identity_domain,
        };
        let identities = object.map(|o| domain.identities(o));
        if set(&mut self.authentications.mesh, at, identities) {
            self.refresh(self.ports.subjects(|_| true));
        }
    }

    pub(crate) fn set_network_authentication(
        &mut self,
        at: ObjectName,
        networks: Option<Vec<NetworkMatch>>,
    ) {
        if set(&mut self.authentications.network, at, networks) {
            self.refresh(self.ports.subjects(|_| true));
        }
    }

    /// Names of all objects of a kind, for what a new list no longer has.
    pub(crate) fn workload_names(&self) -> Vec<ObjectName> {
        self.workloads.keys().cloned().collect()
    }

    pub(crate) fn server_names(&self) -> Vec<ObjectName> {
        self.servers.keys().cloned().collect()
    }

    pub(crate) fn policy_names(&self) -> Vec<ObjectName> {
        self.policies.keys().cloned().collect()
    }

    pub(crate) fn mesh_names(&self) -> Vec<ObjectName> {
        self.authentications.mesh.keys().cloned().collect()
    }

    pub(crate) fn network_names(&self) -> Vec<ObjectName> {
        self.authentications.network.keys().cloned().collect()
    }

    /// Objects by kind and namespace, as the index sizes are exported.
    pub(crate) fn sizes(&self) -> BTreeMap<(&'static str, String), usize> {
        let mut sizes = BTreeMap::new();
        let mut count = |kind, names: Vec<ObjectName>| {
            for (namespace, _) in names {
                *sizes.entry((kind, namespace)).or_default() += 1;
            }
        };
        count("pod", self.workload_names());
        count("server", self.server_names());
        count("authorization_policy", self.policy_names());
        count("meshtls_authentication", self.mesh_names());
        count("network_authentication", self.network_names());
        sizes
    }

    fn refresh_namespace(&mut self, namespace: &str) {
        self.refresh(self.ports.subjects(|(ns, _)| ns == namespace));
    }

    fn refresh(&mut self, workloads: impl IntoIterator<Item = ObjectName>) {
        let mut ports = std::mem::take(&mut self.ports);
        for at in workloads {
            ports.refresh(&at, |port, _| self.build(&at, *port));
        }
        self.ports = ports;
    }
}

/// Inserts, replaces or removes; true if anything changed.
fn set<V: PartialEq>(map: &mut BTreeMap<ObjectName, V>, key: ObjectName, value: Option<V>) -> bool {
    if map.get(&key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
    true
}
