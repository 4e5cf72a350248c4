//! # Label sets that several families share
//!
//! Job: how direction, target, TLS state, policy objects and discovery labels become labels.
//! May touch: values. Callers: this crate's families.

use crate::series::LabelSet;
use mesh_model::{
    endpoint::Labels,
    identity::{DnsName, Identity},
    meta::Meta,
};
use std::net::SocketAddr;

/// Which half of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Toward the application.
    Inbound,
    /// From the application.
    Outbound,
}

/// TLS state of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// Mesh TLS that a client opened; without identity if it showed no certificate.
    Client(Option<Identity>),
    /// Mesh TLS that we opened.
    Server(Identity),
    /// TLS of the application, passed through.
    Opaque(DnsName),
    /// None.
    None(NoTls),
}

/// Why there is no TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoTls {
    /// Identity is off.
    Disabled,
    /// Both ends are this Pod.
    Loopback,
    /// The port's policy forbids looking at the bytes.
    PortSkipped,
    /// The client sent none.
    NotFromRemote,
    /// Discovery gave no identity.
    NotDiscovered,
    /// Ingress mode without an override.
    IngressWithoutOverride,
}

/// Labels of what goes to the application.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundLabels {
    /// The name that requests are for, if it is to be shown.
    pub authority: Option<String>,
    /// Where the application listens.
    pub target: SocketAddr,
    /// The client's TLS.
    pub tls: Tls,
    /// The Server, or default policy.
    pub server: Meta,
    /// Port of the Server.
    pub server_port: u16,
    /// The route, for requests.
    pub route: Option<Meta>,
    /// What let the client in.
    pub authorization: Option<Meta>,
}

/// Labels of what goes to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundLabels {
    /// The peer's address.
    pub target: SocketAddr,
    /// Our TLS toward it.
    pub tls: Tls,
    /// Authority of the requests.
    pub authority: Option<String>,
    /// Labels from discovery, without `dst_`.
    pub discovered: Labels,
}

impl Direction {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl NoTls {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Loopback => "loopback",
            Self::PortSkipped => "port_skipped",
            Self::NotFromRemote => "no_tls_from_remote",
            Self::NotDiscovered => "not_provided_by_service_discovery",
            Self::IngressWithoutOverride => "ingress_without_override",
        }
    }
}

impl Tls {
    pub(crate) fn write(&self, labels: &mut LabelSet) {
        match self {
            Self::Client(id) => {
                labels.push("tls", "true");
                labels.push("client_id", id.as_ref().map_or("", Identity::as_str));
            }
            Self::Server(id) => {
                labels.push("tls", "true");
                labels.push("server_id", id.as_str());
            }
            Self::Opaque(sni) => {
                labels.push("tls", "opaque");
                labels.push("sni", sni.as_str());
            }
            Self::None(NoTls::Disabled) => labels.push("tls", "disabled"),
            Self::None(reason) => {
                labels.push("tls", "no_identity");
                labels.push("no_tls_reason", reason.as_str());
            }
        }
    }
}

pub(crate) fn target(labels: &mut LabelSet, target: SocketAddr) {
    labels.push("target_addr", target.to_string());
    labels.push("target_ip", target.ip().to_string());
    labels.push("target_port", target.port().to_string());
}

pub(crate) fn server(labels: &mut LabelSet, server: &Meta, port: u16) {
    labels.push("srv_group", server.group());
    labels.push("srv_kind", server.kind());
    labels.push("srv_name", server.name());
    labels.push("srv_port", port.to_string());
}

pub(crate) fn route(labels: &mut LabelSet, route: &Meta) {
    labels.push("route_group", route.group());
    labels.push("route_kind", route.kind());
    labels.push("route_name", route.name());
}

/// `<role>_group`, `_kind`, `_namespace`, `_name`, `_port`, `_section_name`: a parent or a backend. The port
/// is the object's own, else `port`; 0 shows as empty.
pub fn target_ref(labels: &mut LabelSet, role: &str, meta: &Meta, port: u16) {
    let (own, section) = match meta {
        Meta::Default(_) => (0, ""),
        Meta::Resource(resource) => (resource.port, resource.section.as_str()),
    };
    let port = [own, port].into_iter().find(|port| *port != 0);
    labels.push(format!("{role}_group"), meta.group());
    labels.push(format!("{role}_kind"), meta.kind());
    labels.push(format!("{role}_namespace"), meta.namespace());
    labels.push(format!("{role}_name"), meta.name());
    labels.push(format!("{role}_port"), port.map(|p| p.to_string()).unwrap_or_default());
    labels.push(format!("{role}_section_name"), section);
}

pub(crate) fn authorization(labels: &mut LabelSet, authz: &Meta) {
    labels.push("authz_group", authz.group());
    labels.push("authz_kind", authz.kind());
    labels.push("authz_name", authz.name());
}

impl InboundLabels {
    pub(crate) fn set(&self) -> LabelSet {
        let mut labels = LabelSet::default().with("direction", Direction::Inbound.as_str());
        if let Some(authority) = &self.authority {
            labels.push("authority", authority);
        }
        target(&mut labels, self.target);
        self.tls.write(&mut labels);
        server(&mut labels, &self.server, self.server_port);
        if let Some(meta) = &self.route {
            route(&mut labels, meta);
        }
        if let Some(meta) = &self.authorization {
            authorization(&mut labels, meta);
        }
        labels
    }
}

impl OutboundLabels {
    pub(crate) fn set(&self) -> LabelSet {
        let mut labels = LabelSet::default().with("direction", Direction::Outbound.as_str());
        if let Some(authority) = &self.authority {
            labels.push("authority", authority);
        }
        target(&mut labels, self.target);
        self.tls.write(&mut labels);
        for (name, value) in self.discovered.iter() {
            labels.push(format!("dst_{name}"), value);
        }
        labels
    }
}
