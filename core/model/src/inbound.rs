//! # Inbound server policy
//!
//! Job: who may reach a port of a workload, and what is spoken there; the rule that decides.
//! May touch: values. Must not touch: sockets, Kubernetes objects.
//! Callers: the policy controller (which makes it), the inbound proxy and the gateway (which obey).

use crate::{identity::Identity, meta::Meta, route::RouteMatch};
use ipnet::IpNet;
use std::{sync::Arc, time::Duration};

/// Policy of one port (`inbound.Server`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPolicy {
    /// The Server object or default policy.
    pub meta: Meta,
    /// What the port speaks.
    pub protocol: ServerProtocol,
    /// In order; the first match wins. Apply to TCP, and to HTTP after the route's own.
    pub authorizations: Arc<[Authorization]>,
}

/// What a port speaks (`inbound.ProxyProtocol`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerProtocol {
    /// Sniff, for at most `timeout`.
    Detect {
        /// HTTP routes.
        http: Arc<[InboundRoute]>,
        /// Time to wait for the first bytes.
        timeout: Duration,
    },
    /// HTTP/1 (peers may upgrade).
    Http1(Arc<[InboundRoute]>),
    /// HTTP/2.
    Http2(Arc<[InboundRoute]>),
    /// gRPC, which is HTTP/2.
    Grpc(Arc<[InboundRoute]>),
    /// Bytes.
    Opaque,
    /// TLS of the application, passed through.
    Tls,
}

/// An inbound HTTP or gRPC route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRoute {
    /// Origin.
    pub meta: Meta,
    /// Hosts; empty matches all.
    pub hosts: Vec<String>,
    /// Own authorizations, tried before the server's.
    pub authorizations: Arc<[Authorization]>,
    /// Rules; each an OR of matches. An empty list of matches is "path prefix /".
    pub rules: Vec<Vec<RouteMatch>>,
}

/// Who is let in (`inbound.Authz`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Origin, for metrics.
    pub meta: Meta,
    /// Client networks; empty matches nobody.
    pub networks: Vec<NetworkMatch>,
    /// Required authentication.
    pub authentication: Authentication,
}

/// A network with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMatch {
    /// Included.
    pub net: IpNet,
    /// Excluded.
    pub except: Vec<IpNet>,
}

/// Required client authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// None.
    Unauthenticated,
    /// Mesh TLS, with or without a client certificate.
    TlsUnauthenticated,
    /// Mesh TLS with one of these identities.
    TlsAuthenticated(Vec<IdentityMatch>),
}

/// A pattern over client identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityMatch {
    /// Exactly this one.
    Exact(Identity),
    /// DNS identities under these labels; no labels means any DNS identity.
    Suffix(Vec<String>),
}
