//! # The outbound index
//!
//! Job: hold what matters of Services; build how a client's traffic to one destination is routed, and
//! publish it only when its value changes.
//! May touch: memory, `watch` channels. Must not touch: the API server, gRPC, time.
//! Callers: `watches` (feeds), `serve` (subscribes).
//!
//! Every policy has one default route so far, made in `of_service`. Explicit routes will replace the default
//! route of their protocol there.

mod balancing;

#[cfg(test)]
mod tests;

use self::balancing::Annotated;
use crate::{Config, error::Refusal};
use k8s_openapi::api::core::v1 as core;
use mesh_cluster::views::Views;
use mesh_k8s::{annotations, labels};
use mesh_model::{
    authority::{NameAddr, ServiceName},
    balance::Balancing,
    meta::{Meta, Resource},
    outbound::{
        Backend, BackendKind, HttpPolicy, OutboundPolicy, OutboundProtocol, OutboundRoute,
        Refusal as Refuse,
    },
    ports::PortSet,
    selector::Selector,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// How long a client sniffs before it takes a connection as opaque.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The policy of a destination, or why there is none.
pub type TargetView = Result<Arc<OutboundPolicy>, Refusal>;

/// What a client asks about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetKey {
    /// Where to.
    pub target: Target,
    /// Set for gateways: only Services that this selects.
    pub export: Option<Arc<Selector>>,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A Service's port, by name. It need not exist.
    Service(ServiceName, NonZeroU16),
    /// An address.
    Address(SocketAddr),
}

/// What makes a view change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Service(ServiceName),
    Ip(IpAddr),
}

/// Everything that outbound policies are made of.
pub struct OutboundIndex {
    config: Arc<Config>,
    services: BTreeMap<ServiceName, ServiceInfo>,
    by_ip: HashMap<IpAddr, BTreeSet<ServiceName>>,
    targets: Views<Subject, TargetKey, TargetView>,
}

/// What matters of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceInfo {
    cluster_ips: BTreeSet<IpAddr>,
    /// `appProtocol` by port.
    ports: BTreeMap<u16, Option<String>>,
    /// `None` without the annotation: the default list holds.
    opaque: Option<PortSet>,
    labels: BTreeMap<String, String>,
    annotated: Annotated,
}

impl ServiceInfo {
    pub(crate) fn parse(object: &core::Service) -> Self {
        let spec = object.spec.as_ref();
        let declared = || spec.iter().flat_map(|s| s.ports.iter().flatten());
        let tcp = |p: &&core::ServicePort| p.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let number = |port: i32| u16::try_from(port).ok().filter(|p| *p > 0);
        let ports: BTreeMap<_, _> = declared()
            .filter(tcp)
            .filter_map(|p| Some((number(p.port)?, p.app_protocol.clone())))
            .collect();
        let named = |name: &str| -> Vec<u16> {
            let named = declared().filter(|p| p.name.as_deref() == Some(name));
            named.filter_map(|p| number(p.port)).collect()
        };
        let annotations = object.metadata.annotations.as_ref();
        let opaque = annotations.and_then(|a| a.get(annotations::OPAQUE_PORTS));
        let ips = spec.iter().flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip));
        Self {
            cluster_ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
            ports,
            opaque: opaque.map(|text| PortSet::from_annotation(text, named)),
            labels: object.metadata.labels.clone().unwrap_or_default(),
            annotated: annotations.map_or_else(Annotated::default, |annotations| {
                let text = |part: &Option<String>| part.clone().unwrap_or_default();
                let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
                let of = format_args!("{}/{}", text(namespace), text(name)).to_string();
                Annotated::parse(annotations, of)
            }),
        }
    }

    fn is_mirror(&self) -> bool {
        self.labels.contains_key(labels::MIRRORED_SERVICE)
            || self.labels.contains_key(labels::MIRROR_CLUSTER_NAME)
    }
}

impl OutboundIndex {
    /// An empty index.
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, services: BTreeMap::new(), by_ip: HashMap::new(), targets: Views::default() }
    }

    /// The policy of a destination, now and from now on.
    pub fn target(&mut self, key: TargetKey) -> watch::Receiver<TargetView> {
        let subject = match &key.target {
            Target::Service(name, _) => Subject::Service(name.clone()),
            Target::Address(addr) => Subject::Ip(addr.ip()),
        };
        let mut targets = std::mem::take(&mut self.targets);
        let receiver = targets.subscribe(subject, key.clone(), || self.build(&key));
        self.targets = targets;
        receiver
    }

    // === how policies are built ===

    fn build(&self, key: &TargetKey) -> TargetView {
        let policy = match &key.target {
            Target::Service(name, port) => {
                let service = self.services.get(name);
                self.check_export(service, key.export.as_deref())?;
                self.of_service(name, service, *port)
            }
            Target::Address(addr) => self.of_address(*addr, key.export.as_deref())?,
        };
        Ok(Arc::new(policy))
    }

    /// A gateway sees exported Services of this cluster and nothing else, mirrors included: a request
    /// must not travel on to a third cluster.
    fn check_export(
        &self,
        service: Option<&ServiceInfo>,
        export: Option<&Selector>,
    ) -> Result<(), Refusal> {
        let Some(selector) = export else { return Ok(()) };
        let exported = |s: &ServiceInfo| !s.is_mirror() && selector.matches(&s.labels);
        if service.is_some_and(exported) { Ok(()) } else { Err(Refusal::NotExported) }
    }

    fn of_address(
        &self,
        addr: SocketAddr,
        export: Option<&Selector>,
    ) -> Result<OutboundPolicy, Refusal> {
        let name = self.by_ip.get(&addr.ip()).and_then(|names| names.first());
        let service = name.and_then(|name| self.services.get(name));
        self.check_export(service, export)?;
        if let (Some(name), Some(service)) = (name, service) {
            let port = NonZeroU16::new(addr.port()).ok_or(Refusal::NoTarget)?;
            if !service.ports.contains_key(&addr.port()) {
                return Ok(undefined_port(name, port));
            }
            return Ok(self.of_service(name, Some(service), port));
        }
        if self.config.cluster_networks.iter().any(|net| net.contains(&addr.ip())) {
            return Err(Refusal::NoTarget);
        }
        Ok(egress_fallback(addr))
    }

    /// A Service that is not known (yet) has the policy of one without annotations.
    fn of_service(
        &self,
        name: &ServiceName,
        service: Option<&ServiceInfo>,
        port: NonZeroU16,
    ) -> OutboundPolicy {
        let parent = service_meta(name, port);
        let Annotated { balancing, accrual } = service.map(|s| s.annotated).unwrap_or_default();
        let route = |route: &str, balancing: Balancing| -> Arc<[OutboundRoute]> {
            let backend = self.balance(name, port, &parent, balancing);
            Arc::new([OutboundRoute::first(Meta::built_in(route), backend)])
        };
        let http = || HttpPolicy { routes: route("http", balancing), accrual };
        // A connection has no response that could be penalised.
        let opaq = || route("opaq", Balancing { penalty: None, ..balancing });
        let app_protocol = service.and_then(|s| s.ports.get(&port.get()).cloned().flatten());
        let opaque = service.and_then(|s| s.opaque.as_ref());
        let opaque = opaque.unwrap_or(&self.config.default_opaque_ports).contains(port.get());
        if app_protocol.is_some() && opaque {
            tracing::debug!(service = %name, port, "appProtocol wins over opaque-ports");
        }
        let protocol = match app_protocol.as_deref() {
            Some("http") => OutboundProtocol::Http1(http()),
            Some("kubernetes.io/h2c") => OutboundProtocol::Http2(http()),
            // `linkerd.io/opaque`, `linkerd.io/tcp`, and whatever the mesh does not know.
            Some(_) => OutboundProtocol::Opaque(opaq()),
            None if opaque => OutboundProtocol::Opaque(opaq()),
            None => OutboundProtocol::detect(DETECT_TIMEOUT, http(), opaq()),
        };
        OutboundPolicy { parent, protocol }
    }

    /// The default backend: the Service itself. Names of Kubernetes objects are DNS names, so a backend
    /// lacks only for a name that no Service can have.
    fn balance(
        &self,
        name: &ServiceName,
        port: NonZeroU16,
        parent: &Meta,
        balancing: Balancing,
    ) -> Option<Backend> {
        let addr = NameAddr { name: name.fqdn(&self.config.cluster_domain).parse().ok()?, port };
        let kind = BackendKind::Balance { addr, balancing };
        Some(Backend::new(parent.clone(), kind))
    }
}

fn service_meta(name: &ServiceName, port: NonZeroU16) -> Meta {
    Meta::Resource(
        Resource {
            group: "core".to_owned(),
            kind: "Service".to_owned(),
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            section: String::new(),
            port: port.get(),
        }
        .into(),
    )
}

/// A port that the Service does not declare is refused, as the cluster network would.
fn undefined_port(name: &ServiceName, port: NonZeroU16) -> OutboundPolicy {
    let meta = Meta::built_in("undefined-port");
    let route = OutboundRoute::refusing(meta, Refuse::Forbidden);
    OutboundPolicy {
        parent: service_meta(name, port),
        protocol: OutboundProtocol::Opaque(Arc::new([route])),
    }
}

/// An address outside of the cluster is reached as it is.
fn egress_fallback(addr: SocketAddr) -> OutboundPolicy {
    let meta = Meta::built_in("egress-fallback");
    let backend = Backend::new(meta.clone(), BackendKind::OriginalDst(addr));
    let route = OutboundRoute::to(meta.clone(), backend);
    OutboundPolicy::detect(meta, DETECT_TIMEOUT, route)
}

// === how facts come in; the views that they can have changed are up to date afterwards ===

impl OutboundIndex {
    pub(crate) fn set_service(&mut self, name: ServiceName, service: Option<ServiceInfo>) {
        if self.services.get(&name) == service.as_ref() {
            return;
        }
        let old = match service.clone() {
            Some(new) => self.services.insert(name.clone(), new),
            None => self.services.remove(&name),
        };
        let mut ips = BTreeSet::new();
        for ip in old.into_iter().flat_map(|s| s.cluster_ips) {
            if let Some(names) = self.by_ip.get_mut(&ip) {
                names.remove(&name);
                if names.is_empty() {
                    self.by_ip.remove(&ip);
                }
            }
            ips.insert(ip);
        }
        for ip in service.into_iter().flat_map(|s| s.cluster_ips) {
            self.by_ip.entry(ip).or_default().insert(name.clone());
            ips.insert(ip);
        }
        let subjects = ips.into_iter().map(Subject::Ip).chain([Subject::Service(name)]);
        let mut targets = std::mem::take(&mut self.targets);
        for subject in subjects {
            targets.refresh(&subject, |key, _| self.build(key));
        }
        self.targets = targets;
    }

    /// Names of all Services, for what a new list no longer has.
    pub(crate) fn service_names(&self) -> Vec<ServiceName> {
        self.services.keys().cloned().collect()
    }
}
