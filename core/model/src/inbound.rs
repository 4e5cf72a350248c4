//! # Inbound server policy
//!
//! Job: who may reach a port of a workload, and what is spoken there; the rule that decides.
//! May touch: values. Must not touch: sockets, Kubernetes objects.
//! Callers: the policy controller (which makes it), the inbound proxy and the gateway (which obey).

mod authorize;
mod default;
mod rate;

pub use authorize::{ClientTls, Denied, Permit};
pub use default::{DefaultPolicy, InvalidDefaultPolicy};
pub use rate::{RateLimit, RateOverride};

use crate::{
    filter::Filter,
    identity::Identity,
    meta::Meta,
    route::{HostMatch, Route, RouteMatch},
};
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
    /// How many requests a second are taken. Always none on protocols other than HTTP/1, HTTP/2 and
    /// detection: the API has no place for it there.
    pub rate_limit: Option<Arc<RateLimit>>,
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
    pub hosts: Vec<HostMatch>,
    /// Own authorizations, tried before the server's.
    pub authorizations: Arc<[Authorization]>,
    /// Which requests, and what is done to them.
    pub rules: Vec<InboundRule>,
}

/// One rule of an inbound route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundRule {
    /// Any of these; none means "path prefix /".
    pub matches: Vec<RouteMatch>,
    /// What is done to a request that matches, in order.
    pub filters: Vec<Filter>,
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

/// How long a server waits for the first bytes before it takes a connection as opaque, when the
/// policy says nothing else (Linkerd's fixed value).
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

impl ServerProtocol {
    /// The HTTP routes, or none for protocols without requests.
    pub fn routes(&self) -> &[InboundRoute] {
        match self {
            Self::Detect { http, .. } => http,
            Self::Http1(routes) | Self::Http2(routes) | Self::Grpc(routes) => routes,
            Self::Opaque | Self::Tls => &[],
        }
    }
}

impl InboundRoute {
    /// The route that a server has when none is attached: everything, no authorizations of its own.
    pub fn fallback() -> Self {
        let slash = crate::route::PathMatch::Prefix("/".into());
        Self {
            meta: Meta::built_in("default"),
            hosts: Vec::new(),
            authorizations: Arc::new([]),
            rules: vec![vec![RouteMatch { path: Some(slash), ..RouteMatch::default() }].into()],
        }
    }
}

/// A rule without filters.
impl From<Vec<RouteMatch>> for InboundRule {
    fn from(matches: Vec<RouteMatch>) -> Self {
        Self { matches, filters: Vec::new() }
    }
}

impl Route for InboundRoute {
    fn hosts(&self) -> &[HostMatch] {
        &self.hosts
    }

    fn rules(&self) -> impl Iterator<Item = &[RouteMatch]> {
        self.rules.iter().map(|rule| &*rule.matches)
    }
}
