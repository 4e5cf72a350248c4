//! # What the proxy tells its operators
//!
//! Job: the metric families of the proxy, under the names, labels and buckets that Linkerd's dashboards
//! know: requests, transports, balancers, errors, authorisations, detection, control plane, process; spans.
//! May touch: one registry of its own (several proxies may live in one process), request and response
//! bodies as they pass. Must not touch: sockets, the global registry, policy decisions.
//! Callers: inbound, outbound, gateway; the wiring shows the text.
//!
//! A label set is resolved once, to a handle; an event is then one relaxed addition. A series leaves at
//! the first scrape that finds it without holder and unchanged for the retention time.

mod access;
mod balance;
mod control;
mod detect;
mod errors;
mod http;
mod inbound_routes;
mod labels;
mod outbound_routes;
mod process;
mod profile_routes;
mod runtime;
mod series;
mod stack;
pub mod trace;
mod transport;

pub use self::{
    access::{Access, AccessLabels, InboundAccess},
    balance::{BalancerMeter, BalancerMetrics, BalancerNames},
    control::{ControlClient, ControlMetrics, DnsRecords, DnsResult},
    detect::{ConnectionProtocol, DetectMetrics, DetectResult, TransportHeaderLabels},
    errors::{ErrorMetrics, InboundErrorLabels},
    http::{Exchange, HttpMetrics, HttpSeries, StreamError},
    inbound_routes::{InboundRouteMetrics, InboundRouteSeries, RateLimitScope, RouteExchange},
    labels::{Direction, InboundLabels, NoTls, OutboundLabels, Tls, target_ref},
    outbound_routes::{
        BackendExchange, ConnectionKind, ConnectionRouteSeries, OutboundBackendSeries,
        OutboundExchange, OutboundRouteExchange, OutboundRouteMetrics, OutboundRouteSeries,
    },
    process::{Build, Facts, IdentityMetrics, TlsInfo},
    profile_routes::{ProfileRouteMetrics, ProfileRouteSeries, Retryable},
    runtime::RuntimeMetrics,
    series::{
        Buckets, Counter, Family, Gauge, Histogram, LabelSet, MAX_SERIES, Reading, Registrar,
        Series,
    },
    stack::{StackLayer, StackMetrics, StackPart},
    transport::{Tracked, TransportLabels, TransportMetrics, TransportPeer, TransportSeries},
};
/// By what requests are judged.
pub use mesh_http::classify::Kind as RequestKind;

use crate::trace::{OpenSpan, SpanKind, Tracer};
use prometheus::Registry;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// All families of one proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

/// The families, by subject.
#[derive(Debug)]
pub struct Families {
    registrar: Registrar,
    /// `request_total`, `response_total`, `response_latency_ms`.
    pub http: HttpMetrics,
    /// `tcp_*`.
    pub transport: TransportMetrics,
    /// `inbound_*_errors_total`, `outbound_*_errors_total`.
    pub errors: ErrorMetrics,
    /// `inbound_*_authz_*`, `inbound_http_route_not_found_total`.
    pub access: InboundAccess,
    /// `outbound_*_route_*`.
    pub outbound_routes: OutboundRouteMetrics,
    /// `inbound_{http,grpc}_*` by route, `inbound_http_local_ratelimit_total`.
    pub inbound_routes: InboundRouteMetrics,
    /// `*_tcp_detect_http_*`, `inbound_tcp_transport_header_connections_total`.
    pub detect: DetectMetrics,
    /// `control_identity_cert_*`.
    pub identity: IdentityMetrics,
    /// `route_*`.
    pub profile_routes: ProfileRouteMetrics,
    /// `stack_*`.
    pub stack: StackMetrics,
    /// `control_*` of the clients of the control plane.
    pub control: ControlMetrics,
    /// `outbound_http_balancer_*`.
    pub http_balancers: BalancerMetrics,
    /// `outbound_tcp_balancer_*`.
    pub tcp_balancers: BalancerMetrics,
    /// `outbound_tls_balancer_*`.
    pub tls_balancers: BalancerMetrics,
    /// `tokio_rt_*`.
    pub runtimes: RuntimeMetrics,
    tracer: OnceLock<Tracer>,
}

impl Metrics {
    /// Families in a registry of their own; series idle for `retain_idle` are dropped at scrape.
    pub fn new(retain_idle: Duration) -> Self {
        let registrar = Registrar::new(retain_idle);
        let requests = ["request_total", "response_total", "response_latency_ms"];
        let stack = StackMetrics::new(&registrar);
        let balancers = |protocol| Some(stack.layer(Direction::Outbound, protocol, "balancer"));
        // Linkerd's older families first, as there.
        Self(Arc::new(Families {
            http: HttpMetrics::new(&registrar, requests),
            profile_routes: ProfileRouteMetrics::new(&registrar),
            control: ControlMetrics::new(&registrar),
            transport: TransportMetrics::new(&registrar),
            errors: ErrorMetrics::new(&registrar),
            access: InboundAccess::new(&registrar),
            outbound_routes: OutboundRouteMetrics::new(&registrar),
            inbound_routes: InboundRouteMetrics::new(&registrar),
            detect: DetectMetrics::new(&registrar),
            identity: IdentityMetrics::new(&registrar),
            http_balancers: BalancerMetrics::new(
                &registrar,
                BalancerNames::HTTP,
                balancers("http"),
            ),
            tcp_balancers: BalancerMetrics::new(&registrar, BalancerNames::TCP, balancers("tcp")),
            tls_balancers: BalancerMetrics::new(&registrar, BalancerNames::TLS, balancers("tls")),
            runtimes: RuntimeMetrics::new(&registrar),
            tracer: OnceLock::new(),
            stack,
            registrar,
        }))
    }

    /// For collectors that are no families of ours, such as the process's own.
    pub fn foreign(&self) -> &Registry {
        self.registrar.foreign()
    }

    /// All families as text. Takes as long as there are series: not for a thread that has other things to do.
    pub fn text(&self) -> Vec<u8> {
        self.registrar.text()
    }

    /// Where spans go; nothing is traced without.
    #[inline]
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.get()
    }

    /// Begins a span if spans go anywhere and the request belongs to a sampled trace.
    #[inline]
    pub fn span<B>(
        &self,
        direction: Direction,
        kind: SpanKind,
        request: &mut ::http::Request<B>,
    ) -> Option<OpenSpan> {
        self.tracer()?.begin(direction, kind, request)
    }

    /// Traces from now on. The first call counts.
    pub fn trace_to(&self, tracer: Tracer) {
        // Set already: the wiring calls this once.
        let _ = self.tracer.set(tracer);
    }

    /// For families that a room defines itself.
    pub fn registrar(&self) -> &Registrar {
        &self.registrar
    }
}

impl std::ops::Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
