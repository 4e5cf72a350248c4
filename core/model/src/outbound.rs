//! # Outbound policy
//!
//! Job: how a client's traffic to one destination is routed (`outbound.OutboundPolicy`): one shape of
//! route for HTTP, gRPC, TLS and bytes.
//! May touch: values. Must not touch: live backends. Callers: the policy controller, `wire`, outbound.
//!
//! Ratios are whole millionths, so that these values can be compared.

mod overrides;

pub use self::overrides::{Overrides, header};

use crate::{
    authority::NameAddr,
    balance::{Accrual, Balancing},
    endpoint::Endpoint,
    filter::{Filter, Ratio},
    meta::Meta,
    response::{GrpcCodes, StatusRanges},
    route::{HostMatch, Route, RouteMatch},
};
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
    /// Sniff.
    Detect {
        /// Wait for the first bytes. Told, but not obeyed: a proxy goes by its own setting, as Linkerd's does.
        timeout: Duration,
        /// If it is HTTP/1.
        http1: HttpPolicy,
        /// If it is HTTP/2.
        http2: HttpPolicy,
        /// If it is neither.
        opaque: Arc<[OutboundRoute]>,
    },
    /// HTTP/1 without sniffing.
    Http1(HttpPolicy),
    /// HTTP/2 without sniffing.
    Http2(HttpPolicy),
    /// gRPC.
    Grpc(HttpPolicy),
    /// Bytes.
    Opaque(Arc<[OutboundRoute]>),
    /// TLS of the application, routed by the name that its client asks for.
    Tls(Arc<[OutboundRoute]>),
}

/// Routes of requests, and when an endpoint counts as broken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    /// In order.
    pub routes: Arc<[OutboundRoute]>,
    /// `None`: endpoints are never taken for broken.
    pub accrual: Option<Accrual>,
}

/// A route: origin, names that it is for, rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRoute {
    /// Origin.
    pub meta: Meta,
    /// Hosts of requests, or names that a TLS client asks for; empty matches all.
    pub hosts: Vec<HostMatch>,
    /// One at least. Bytes and TLS have exactly one, without matches.
    pub rules: Vec<OutboundRule>,
}

/// What happens to the traffic that a rule matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundRule {
    /// One of these must hold; empty is "path prefix /".
    pub matches: Vec<RouteMatch>,
    /// It is not carried at all.
    pub refusal: Option<Refusal>,
    /// In order; HTTP and gRPC only.
    pub filters: Vec<Filter>,
    /// Some requests are kept waiting on purpose.
    pub delay: Option<Delay>,
    /// Where to.
    pub backends: Distribution,
    /// Limits of requests.
    pub timeouts: Timeouts,
    /// When a request is sent again.
    pub retry: Option<Retry>,
    /// Whether the application's `l5d-*` headers change timeouts and retries.
    pub allow_overrides: bool,
}

/// Why traffic is not carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Forbidden by policy.
    Forbidden,
    /// The policy cannot be obeyed.
    Invalid(String),
}

/// A delay made on purpose, to see how clients bear it. No part of Linkerd's API: it travels as a header
/// that is to be set (see `wire`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long.
    pub time: Duration,
    /// Which share of requests.
    pub ratio: Ratio,
}

/// How a rule's traffic is spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// There is nowhere to go.
    #[default]
    Empty,
    /// The first that is ready, in order.
    First(Vec<RouteBackend>),
    /// At random by weight, among those that are ready.
    Random(Vec<(u32, RouteBackend)>),
}

/// A backend as one rule uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteBackend {
    /// The backend.
    pub backend: Backend,
    /// In order, after those of the rule.
    pub filters: Vec<Filter>,
    /// It is not carried there at all.
    pub refusal: Option<Refusal>,
    /// Limit of one attempt here, from its start to its end.
    pub timeout: Option<Duration>,
}

/// Where a route sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Origin.
    pub meta: Meta,
    /// How.
    pub kind: BackendKind,
    /// Who may wait; `None` leaves it to the proxy.
    pub queue: Option<QueuePolicy>,
}

/// Who may wait for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePolicy {
    /// So many.
    pub capacity: u32,
    /// So long, before all fail at once.
    pub failfast: Duration,
}

/// How a backend is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// One endpoint.
    Forward(Endpoint),
    /// The original destination as it is, in plaintext.
    OriginalDst(SocketAddr),
    /// Balance over `Destination.Get(addr)`.
    Balance {
        /// Destination path.
        addr: NameAddr,
        /// How.
        balancing: Balancing,
    },
    /// The controller names no way.
    Unknown,
}

/// Peak-EWMA parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakEwma {
    /// Estimate before the first response.
    pub default_rtt: Duration,
    /// Time constant of decay.
    pub decay: Duration,
}

/// Limits of one request; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From its start to its end, retries included.
    pub request: Option<Duration>,
    /// From the last byte of the request to the last of the response.
    pub response: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
}

/// When and how often a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// At most so many times.
    pub max: u32,
    /// A request with a longer body is sent once only, bytes.
    pub max_body: usize,
    /// HTTP statuses that call for it.
    pub statuses: StatusRanges,
    /// gRPC codes that call for it.
    pub codes: GrpcCodes,
    /// Wait for the head of a response, for every attempt but the last.
    pub timeout: Option<Duration>,
    /// Pauses between attempts; `None` is no pause.
    pub backoff: Option<RetryBackoff>,
}

/// Pauses between attempts: `min`, doubling up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBackoff {
    /// The first.
    pub min: Duration,
    /// The longest; at least `min`, above zero.
    pub max: Duration,
    /// Of each, up to this much is added at random; millionths.
    pub jitter: u32,
    /// What a response asks for (`retry-after`) is the pause, between `min` and `max`.
    pub respect_retry_after: bool,
}

// === impl OutboundPolicy ===

impl OutboundPolicy {
    /// Every connection and request follows `route`, after sniffing for at most `timeout`.
    pub fn detect(parent: Meta, timeout: Duration, route: OutboundRoute) -> Self {
        let routes: Arc<[OutboundRoute]> = Arc::new([route]);
        Self { parent, protocol: OutboundProtocol::detect(timeout, routes.clone().into(), routes) }
    }

    /// What stands in for a policy that cannot be used: everything fails with this reason, rather than
    /// flowing by a rule that is no longer true.
    pub fn invalid(reason: &str, timeout: Duration) -> Self {
        let meta = Meta::built_in("invalid");
        let refusal = Refusal::Invalid(reason.to_owned());
        Self::detect(meta.clone(), timeout, OutboundRoute::refusing(meta, refusal))
    }

    /// The policy of a destination that no controller knows: forward to where the client wanted, in
    /// plaintext, named `fallback`; or to the endpoint that the profile gave, named `endpoint`.
    pub fn synthesized(target: Synthesized, timeout: Duration) -> Self {
        let (name, kind) = match target {
            Synthesized::Fallback(addr) => ("fallback", BackendKind::OriginalDst(addr)),
            Synthesized::Endpoint(endpoint) => ("endpoint", BackendKind::Forward(endpoint)),
        };
        let meta = Meta::built_in(name);
        let route = OutboundRoute::to(meta.clone(), Backend::new(meta.clone(), kind));
        Self::detect(meta, timeout, route)
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

// === impl OutboundProtocol ===

impl OutboundProtocol {
    /// Sniffing, with the same routes for both versions of HTTP.
    pub fn detect(timeout: Duration, http: HttpPolicy, opaque: Arc<[OutboundRoute]>) -> Self {
        Self::Detect { timeout, http1: http.clone(), http2: http, opaque }
    }

    /// All lists of routes, to be changed.
    pub fn routes_mut(&mut self) -> impl Iterator<Item = &mut Arc<[OutboundRoute]>> {
        let lists: [Option<&mut Arc<[OutboundRoute]>>; 3] = match self {
            Self::Detect { http1, http2, opaque, .. } => {
                [Some(&mut http1.routes), Some(&mut http2.routes), Some(opaque)]
            }
            Self::Http1(http) | Self::Http2(http) | Self::Grpc(http) => {
                [Some(&mut http.routes), None, None]
            }
            Self::Opaque(routes) | Self::Tls(routes) => [Some(routes), None, None],
        };
        lists.into_iter().flatten()
    }

    /// What holds for requests of HTTP/1 and HTTP/2; the same for both unless the policy sniffs.
    pub fn http(&self) -> Option<(&HttpPolicy, &HttpPolicy)> {
        match self {
            Self::Detect { http1, http2, .. } => Some((http1, http2)),
            Self::Http1(http) | Self::Http2(http) | Self::Grpc(http) => Some((http, http)),
            Self::Opaque(_) | Self::Tls(_) => None,
        }
    }

    /// Routes of HTTP/1 requests, or none for protocols without requests.
    pub fn http_routes(&self) -> &[OutboundRoute] {
        self.http().map_or(&[], |(http1, _)| &http1.routes)
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

impl From<Arc<[OutboundRoute]>> for HttpPolicy {
    fn from(routes: Arc<[OutboundRoute]>) -> Self {
        Self { routes, accrual: None }
    }
}

// === impl OutboundRoute ===

impl OutboundRoute {
    /// A route of one rule for all traffic.
    pub fn one(meta: Meta, rule: OutboundRule) -> Self {
        Self { meta, hosts: Vec::new(), rules: vec![rule] }
    }

    /// All traffic goes to this backend.
    pub fn to(meta: Meta, backend: Backend) -> Self {
        Self::first(meta, [backend])
    }

    /// All traffic goes to the first of these that is ready.
    pub fn first(meta: Meta, backends: impl IntoIterator<Item = Backend>) -> Self {
        let backends: Vec<_> = backends.into_iter().map(RouteBackend::from).collect();
        let backends = match backends.is_empty() {
            true => Distribution::Empty,
            false => Distribution::First(backends),
        };
        Self::one(meta, OutboundRule { backends, ..OutboundRule::default() })
    }

    /// Nothing is carried.
    pub fn refusing(meta: Meta, refusal: Refusal) -> Self {
        Self::one(meta, OutboundRule { refusal: Some(refusal), ..OutboundRule::default() })
    }
}

impl Route for OutboundRoute {
    fn hosts(&self) -> &[HostMatch] {
        &self.hosts
    }

    fn rules(&self) -> impl Iterator<Item = &[RouteMatch]> {
        self.rules.iter().map(|rule| &*rule.matches)
    }
}

impl Distribution {
    /// All backends, in order.
    pub fn backends(&self) -> impl Iterator<Item = &RouteBackend> {
        let (first, random) = match self {
            Self::Empty => (None, None),
            Self::First(list) => (Some(list), None),
            Self::Random(list) => (None, Some(list)),
        };
        first.into_iter().flatten().chain(random.into_iter().flatten().map(|(_, b)| b))
    }

    /// As [`Self::backends`], to be changed.
    pub fn backends_mut(&mut self) -> impl Iterator<Item = &mut RouteBackend> {
        let (first, random) = match self {
            Self::Empty => (None, None),
            Self::First(list) => (Some(list), None),
            Self::Random(list) => (None, Some(list)),
        };
        first.into_iter().flatten().chain(random.into_iter().flatten().map(|(_, b)| b))
    }
}

impl Backend {
    /// A backend whose queue is the proxy's affair.
    pub fn new(meta: Meta, kind: BackendKind) -> Self {
        Self { meta, kind, queue: None }
    }
}

impl From<Backend> for RouteBackend {
    fn from(backend: Backend) -> Self {
        Self { backend, filters: Vec::new(), refusal: None, timeout: None }
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { default_rtt: Duration::from_millis(30), decay: Duration::from_secs(10) }
    }
}

// === impl Retry ===

impl Retry {
    /// Bytes of a request that are kept where nobody says otherwise.
    pub const MAX_BODY: usize = 64 * 1024;
}

/// One retry, as headers alone ask for it: nothing calls for it yet.
impl Default for Retry {
    fn default() -> Self {
        Self {
            max: 1,
            max_body: Self::MAX_BODY,
            statuses: StatusRanges::default(),
            codes: GrpcCodes::default(),
            timeout: None,
            backoff: Some(RetryBackoff::default()),
        }
    }
}

/// 25 ms to 250 ms, up to doubled at random.
impl Default for RetryBackoff {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(25),
            max: Duration::from_millis(250),
            jitter: 1_000_000,
            respect_retry_after: false,
        }
    }
}

impl Timeouts {
    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
