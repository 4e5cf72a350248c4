//! # Outbound policy
//!
//! Job: how a client's traffic to one destination is routed (`outbound.OutboundPolicy`). Default
//! routes now; matching, filters, retries, timeouts and breakers extend `OutboundRoute`.
//! May touch: values. Callers: the policy controller, outbound discovery.

use crate::{authority::NameAddr, endpoint::Endpoint, meta::Meta};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Policy for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundPolicy {
    /// Parent: the Service, EgressNetwork, or a default (`egress-fallback`).
    pub parent: Meta,
    /// Protocol and routes.
    pub protocol: OutboundProtocol,
}

/// `outbound.ProxyProtocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundProtocol {
    /// Sniff; the wire carries the same routes twice, for HTTP/1 and HTTP/2.
    Detect {
        /// Wait for the first bytes.
        timeout: Duration,
        /// If it is HTTP.
        http: Arc<[OutboundRoute]>,
        /// If not.
        opaque: Arc<[OutboundRoute]>,
    },
    /// HTTP/1 without sniffing.
    Http1(Arc<[OutboundRoute]>),
    /// HTTP/2 without sniffing.
    Http2(Arc<[OutboundRoute]>),
    /// gRPC.
    Grpc(Arc<[OutboundRoute]>),
    /// Bytes.
    Opaque(Arc<[OutboundRoute]>),
    /// TLS of the application.
    Tls(Arc<[OutboundRoute]>),
}

/// A route: origin, matches, backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRoute {
    /// Origin.
    pub meta: Meta,
    /// What it does with traffic.
    pub action: RouteAction,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// First backend that is ready, in order.
    FirstAvailable(Vec<Backend>),
    /// Refuse TCP (`Forbidden` filter).
    Forbidden,
    /// Refuse, saying why.
    Invalid(String),
}

/// Where a route sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Origin.
    pub meta: Meta,
    /// How.
    pub kind: BackendKind,
}

/// How a backend is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// One endpoint.
    Forward(Endpoint),
    /// The original destination as it is, in plaintext.
    OriginalDst(SocketAddr),
    /// Balance over `Destination.Get(addr)` with peak-EWMA.
    Balance {
        /// Destination path.
        addr: NameAddr,
        /// Load parameters.
        ewma: PeakEwma,
    },
}

/// Peak-EWMA parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakEwma {
    /// Estimate before the first response.
    pub default_rtt: Duration,
    /// Time constant of decay.
    pub decay: Duration,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10) }
    }
}

impl OutboundPolicy {
    /// Every connection and request gets `action`, after sniffing for at most `timeout`.
    pub fn detect(parent: Meta, timeout: Duration, route: OutboundRoute) -> Self {
        let routes: Arc<[OutboundRoute]> = Arc::new([route]);
        let protocol = OutboundProtocol::Detect { timeout, http: routes.clone(), opaque: routes };
        Self { parent, protocol }
    }

    /// What stands in for a policy that cannot be used: everything fails with this reason, rather than
    /// flowing by a rule that is no longer true.
    pub fn invalid(reason: &str, timeout: Duration) -> Self {
        let meta = Meta::built_in("invalid");
        let action = RouteAction::Invalid(reason.to_owned());
        Self::detect(meta.clone(), timeout, OutboundRoute { meta, action })
    }

    /// The policy of a destination that no controller knows: forward to where the client wanted, in
    /// plaintext, named `fallback`; or to the endpoint that the profile gave, named `endpoint`.
    pub fn synthesized(target: Synthesized, timeout: Duration) -> Self {
        let (name, kind) = match target {
            Synthesized::Fallback(addr) => ("fallback", BackendKind::OriginalDst(addr)),
            Synthesized::Endpoint(endpoint) => ("endpoint", BackendKind::Forward(endpoint)),
        };
        let meta = Meta::built_in(name);
        let backend = Backend { meta: meta.clone(), kind };
        let action = RouteAction::FirstAvailable(vec![backend]);
        Self::detect(meta.clone(), timeout, OutboundRoute { meta, action })
    }
}

/// Where a synthesized policy sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Synthesized {
    /// The original destination.
    Fallback(SocketAddr),
    /// The endpoint of an endpoint profile.
    Endpoint(Endpoint),
}

impl OutboundProtocol {
    /// Routes of HTTP requests, or none for protocols without requests.
    pub fn http_routes(&self) -> &[OutboundRoute] {
        match self {
            Self::Detect { http, .. } => http,
            Self::Http1(routes) | Self::Http2(routes) | Self::Grpc(routes) => routes,
            Self::Opaque(_) | Self::Tls(_) => &[],
        }
    }

    /// Routes of connections whose bytes are forwarded as they are.
    pub fn opaque_routes(&self) -> &[OutboundRoute] {
        match self {
            Self::Detect { opaque, .. } => opaque,
            Self::Opaque(routes) | Self::Tls(routes) => routes,
            Self::Http1(_) | Self::Http2(_) | Self::Grpc(_) => &[],
        }
    }
}
