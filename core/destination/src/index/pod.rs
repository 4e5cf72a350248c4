//! # Pods and what surrounds them, as discovery needs them
//!
//! Job: parse Pods, Servers, Nodes and owners into small values.
//! May touch: object types. Callers: the index.

use super::service::number;
use k8s_openapi::{
    api::core::v1 as core,
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use mesh_k8s::{annotations, labels, names, policy};
use mesh_model::ports::PortSet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

/// What matters of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodInfo {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) host_ips: Vec<IpAddr>,
    /// Running for discovery's purposes: not on the host's network, not going away, not finished.
    pub(crate) addressable: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) service_account: String,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) owner: Option<Owner>,
    /// `None` without a proxy container, whatever the labels say.
    pub(crate) proxy: Option<ProxyPorts>,
    /// `None` without the annotation: the default list holds.
    pub(crate) opaque: Option<PortSet>,
    pub(crate) skip_inbound: PortSet,
    pub(crate) ports: Vec<ContainerPort>,
}

/// The controlling object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) host_port: Option<u16>,
}

/// Ports of the proxy by its environment; `Err` holds a text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyPorts {
    pub(crate) inbound: Result<Option<NonZeroU16>, String>,
    pub(crate) admin: Option<NonZeroU16>,
    pub(crate) control: Option<NonZeroU16>,
}

/// A Server with protocol `opaque`; others say nothing to discovery.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OpaqueServer {
    pub(crate) selector: LabelSelector,
    pub(crate) port: IntOrString,
}

impl PodInfo {
    pub(crate) fn parse(object: &core::Pod) -> Self {
        let default_spec = core::PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default_spec);
        let status = object.status.as_ref();
        let containers: Vec<_> =
            spec.init_containers.iter().flatten().chain(&spec.containers).collect();
        let ports = container_ports(&containers);
        let by_name = |name: &str| -> Vec<u16> {
            ports.iter().filter(|p| p.name == name).map(|p| p.port).collect()
        };
        let annotation = |key: &str| {
            let text = object.metadata.annotations.as_ref()?.get(key)?;
            Some(PortSet::from_annotation(text, by_name))
        };
        let phase = status.and_then(|s| s.phase.as_deref());
        let finished = matches!(phase, Some("Succeeded" | "Failed"));
        Self {
            ips: ips(
                status.and_then(|s| s.pod_ip.as_ref()),
                status.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| &ip.ip),
            ),
            host_ips: ips(
                status.and_then(|s| s.host_ip.as_ref()),
                status.iter().flat_map(|s| s.host_ips.iter().flatten()).map(|ip| &ip.ip),
            ),
            addressable: !spec.host_network.unwrap_or(false)
                && object.metadata.deletion_timestamp.is_none()
                && !finished,
            labels: object.metadata.labels.clone().unwrap_or_default(),
            service_account: spec
                .service_account_name
                .clone()
                .filter(|s| !s.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            node: spec.node_name.as_deref().map(Into::into),
            owner: owner(&object.metadata),
            proxy: containers
                .iter()
                .find(|c| c.name == names::PROXY_CONTAINER)
                .map(|c| ProxyPorts::parse(c)),
            opaque: annotation(annotations::OPAQUE_PORTS),
            skip_inbound: annotation(annotations::SKIP_INBOUND_PORTS).unwrap_or_default(),
            ports,
        }
    }

    /// The namespace of the control plane that the Pod belongs to.
    pub(crate) fn control_plane_ns(&self) -> Option<&str> {
        self.labels.get(labels::CONTROL_PLANE_NS).map(String::as_str)
    }

    /// Whether a container port of that name has this number.
    pub(crate) fn names_port(&self, name: &str, port: u16) -> bool {
        self.ports.iter().any(|p| p.name == name && p.port == port)
    }

    /// The container port behind a port of the host.
    pub(crate) fn host_port(&self, port: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.host_port == Some(port)).map(|p| p.port)
    }
}

impl ProxyPorts {
    fn parse(container: &core::Container) -> Self {
        let env = |name: &str| {
            let var = container.env.iter().flatten().find(|v| v.name == name)?;
            var.value.as_deref().filter(|v| !v.is_empty())
        };
        let port = |name: &str| match env(name) {
            None => Ok(None),
            Some(text) => match text.parse::<SocketAddr>() {
                Ok(addr) => Ok(NonZeroU16::new(addr.port())),
                Err(_) => Err(text.to_owned()),
            },
        };
        Self {
            inbound: port("LINKERD2_PROXY_INBOUND_LISTEN_ADDR"),
            admin: port("LINKERD2_PROXY_ADMIN_LISTEN_ADDR").unwrap_or_default(),
            control: port("LINKERD2_PROXY_CONTROL_LISTEN_ADDR").unwrap_or_default(),
        }
    }
}

impl OpaqueServer {
    /// `None` for a Server of another protocol, or one that selects no Pods.
    pub(crate) fn parse(object: &policy::Server) -> Option<Self> {
        if object.spec.proxy_protocol.as_deref() != Some("opaque") {
            return None;
        }
        let selector = object.spec.pod_selector.clone()?;
        Some(Self { selector, port: object.spec.port.clone() })
    }

    pub(crate) fn selects(&self, pod: &PodInfo, port: u16) -> bool {
        let fits = match &self.port {
            IntOrString::Int(number) => *number == i32::from(port),
            IntOrString::String(name) => pod.names_port(name, port),
        };
        fits && mesh_k8s::selector::matches(&self.selector, &pod.labels)
    }
}

/// The one owner; none if there are several, since then nobody can say which.
pub(crate) fn owner(meta: &ObjectMeta) -> Option<Owner> {
    match meta.owner_references.as_deref() {
        Some([one]) => Some(Owner { kind: one.kind.clone(), name: one.name.clone() }),
        _ => None,
    }
}

/// The zone that a Node says it is in.
pub(crate) fn zone(meta: &ObjectMeta) -> Option<Arc<str>> {
    meta.labels.as_ref()?.get(labels::ZONE).map(|zone| zone.as_str().into())
}

fn container_ports(containers: &[&core::Container]) -> Vec<ContainerPort> {
    let tcp = |p: &&core::ContainerPort| p.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let port = |p: &core::ContainerPort| {
        Some(ContainerPort {
            name: p.name.clone().unwrap_or_default(),
            port: number(p.container_port)?,
            host_port: p.host_port.and_then(number),
        })
    };
    let all = containers.iter().flat_map(|c| c.ports.iter().flatten());
    all.filter(tcp).filter_map(port).collect()
}

fn ips<'a>(first: Option<&'a String>, all: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> =
        first.into_iter().chain(all).filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    ips
}
