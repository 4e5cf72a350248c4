//! # What the proxy tells its operators
//!
//! Job: the metric families of the proxy, under the names, labels and buckets that Linkerd's dashboards
//! know: requests, transports, errors, authorisations, detection, identity, build.
//! May touch: one registry of its own (several proxies may live in one process), request and response
//! bodies as they pass. Must not touch: sockets, the global registry, policy decisions.
//! Callers: inbound, outbound, gateway; the wiring reads the registry.
//!
//! A label set is resolved once, to a handle; an event is then one relaxed addition. A series leaves at
//! the first scrape that finds it without holder and unchanged for the retention time.

mod access;
mod detect;
mod errors;
mod http;
mod labels;
mod process;
mod series;
mod transport;

pub use self::{
    access::{Access, AccessLabels, InboundAccess},
    detect::{DetectMetrics, DetectResult, TransportHeaderLabels},
    errors::{ErrorMetrics, InboundErrorLabels},
    http::{Classify, Exchange, HttpMetrics, HttpSeries, RequestKind, StreamError},
    labels::{Direction, InboundLabels, NoTls, OutboundLabels, Tls},
    process::{IdentityMetrics, build_info},
    series::{Buckets, Counter, Family, Gauge, Histogram, LabelSet, Registrar},
    transport::{Tracked, TransportLabels, TransportMetrics, TransportPeer, TransportSeries},
};

use prometheus::Registry;
use std::{sync::Arc, time::Duration};

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
    /// `*_tcp_detect_http_*`, `inbound_tcp_transport_header_connections_total`.
    pub detect: DetectMetrics,
    /// `control_identity_cert_*`.
    pub identity: IdentityMetrics,
}

impl Metrics {
    /// Families in a registry of their own; series idle for `retain_idle` are dropped at scrape.
    pub fn new(retain_idle: Duration) -> Self {
        let registrar = Registrar::new(retain_idle);
        Self(Arc::new(Families {
            http: HttpMetrics::new(&registrar),
            transport: TransportMetrics::new(&registrar),
            errors: ErrorMetrics::new(&registrar),
            access: InboundAccess::new(&registrar),
            detect: DetectMetrics::new(&registrar),
            identity: IdentityMetrics::new(&registrar),
            registrar,
        }))
    }

    /// The registry to scrape, and to add families of other rooms to.
    pub fn registry(&self) -> &Registry {
        self.registrar.registry()
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
