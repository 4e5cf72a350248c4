//! # Servers
//!
//! Job: parse Server objects; say which ports of a workload one selects.
//! May touch: object types, values. Callers: the inbound index.

use super::workload::Workload;
use k8s_openapi::{
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
    jiff::Timestamp,
};
use mesh_k8s::{policy, selector};
use mesh_model::inbound::DefaultPolicy;

/// What matters of a Server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerInfo {
    /// Older ones win; `None` (never sent by an API server) is the oldest.
    pub(crate) created: Option<Timestamp>,
    /// `None` selects no Pods (it is about workloads outside of the cluster).
    pub(crate) pods: Option<LabelSelector>,
    pub(crate) port: IntOrString,
    pub(crate) protocol: Protocol,
    pub(crate) access: DefaultPolicy,
}

/// `spec.proxyProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Unknown,
    Http1,
    Http2,
    Grpc,
    Opaque,
    Tls,
}

impl ServerInfo {
    pub(crate) fn parse(object: &policy::Server) -> Self {
        let (ns, name) = (&object.metadata.namespace, &object.metadata.name);
        let protocol = match object.spec.proxy_protocol.as_deref() {
            None | Some("unknown") => Protocol::Unknown,
            Some("HTTP/1") => Protocol::Http1,
            Some("HTTP/2") => Protocol::Http2,
            Some("gRPC") => Protocol::Grpc,
            Some("opaque") => Protocol::Opaque,
            Some("TLS") => Protocol::Tls,
            Some(other) => {
                tracing::warn!(?ns, ?name, protocol = other, "unknown protocol: it is detected");
                Protocol::Unknown
            }
        };
        let access = match object.spec.access_policy.as_deref().map(str::parse) {
            None => DefaultPolicy::Deny,
            Some(Ok(access)) => access,
            Some(Err(error)) => {
                let error: mesh_model::inbound::InvalidDefaultPolicy = error;
                tracing::warn!(?ns, ?name, %error, "access policy taken as deny");
                DefaultPolicy::Deny
            }
        };
        Self {
            created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
            pods: object.spec.pod_selector.clone(),
            port: object.spec.port.clone(),
            protocol,
            access,
        }
    }

    pub(crate) fn selects(&self, workload: &Workload, port: u16) -> bool {
        let fits = match &self.port {
            IntOrString::Int(number) => *number == i32::from(port),
            IntOrString::String(name) => {
                workload.named.get(name).is_some_and(|ports| ports.contains(&port))
            }
        };
        let pods = self.pods.as_ref();
        fits && pods.is_some_and(|pods| selector::matches(pods, &workload.labels))
    }
}
