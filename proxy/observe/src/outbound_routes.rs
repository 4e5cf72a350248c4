//! # Traffic by outbound route
//!
//! Job: `outbound_{http,grpc}_route_*` (requests, backends, retries) and `outbound_{tcp,tls}_route_*`, by
//! parent, route and backend.
//! May touch: heads, the sizes of frames, a clock. Must not touch: content. Callers: the outbound half.

mod exchange;

pub use self::exchange::{
    BackendExchange, OutboundExchange, RouteExchange as OutboundRouteExchange,
};

use crate::{
    RequestKind,
    labels::target_ref,
    series::{Buckets, Counter, Family, Histogram, LabelSet, Registrar},
};
use mesh_http::retry::Event;
use mesh_model::meta::Meta;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

/// The families of all kinds of routes.
#[derive(Clone, Debug)]
pub struct OutboundRouteMetrics {
    http: Requests,
    grpc: Requests,
    tcp: Connections,
    tls: Connections,
}

#[derive(Clone, Debug)]
struct Requests {
    kind: RequestKind,
    duration: Family<Histogram>,
    statuses: Family<Counter>,
    frames: Family<Histogram>,
    backend_requests: Family<Counter>,
    backend_duration: Family<Histogram>,
    backend_statuses: Family<Counter>,
    backend_frames: Family<Histogram>,
    retries: [Family<Counter>; 4],
}

#[derive(Clone, Debug)]
struct Connections {
    open: Family<Counter>,
    close: Family<Counter>,
}

/// Which families a route of connections counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// `outbound_tcp_route_*`.
    Tcp,
    /// `outbound_tls_route_*`.
    Tls,
}

/// Requests on one route. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct OutboundRouteSeries(Arc<RouteSeries>);

#[derive(Debug)]
struct RouteSeries {
    families: Requests,
    labels: LabelSet,
    duration: Histogram,
    frames: Histogram,
    statuses: Statuses,
    retries: [Counter; 4],
    /// Series with the host of the request, if that is wanted.
    hosts: Option<Mutex<HashMap<Box<str>, OutboundRouteSeries>>>,
}

/// Requests that one route sends to one backend. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct OutboundBackendSeries(Arc<BackendSeries>);

#[derive(Debug)]
struct BackendSeries {
    kind: RequestKind,
    requests: Counter,
    duration: Histogram,
    frames: Histogram,
    statuses: Statuses,
}

/// Connections on one route.
#[derive(Clone, Debug)]
pub struct ConnectionRouteSeries {
    open: Counter,
    close: Family<Counter>,
    labels: LabelSet,
}

/// How a response ended: a status, and an error if it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Outcome {
    status: Option<u16>,
    error: &'static str,
}

/// Counters by outcome.
#[derive(Debug)]
struct Statuses {
    kind: RequestKind,
    family: Family<Counter>,
    labels: LabelSet,
    /// The usual outcome, without a lock.
    usual: OnceLock<Counter>,
    others: Mutex<HashMap<Outcome, Counter>>,
}

const ROUTE_SECONDS: Buckets = &[0.05, 0.5, 1.0, 10.0];
const BACKEND_SECONDS: Buckets = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
const FRAME_BYTES: Buckets = &[128.0, 1024.0, 10_240.0];

/// Hosts of one route that have series of their own; a client that makes up names gets no further.
const MOST_HOSTS: usize = 1000;

/// The order of the retry counters.
const EVENTS: [Event; 4] = [Event::Sent, Event::Success, Event::LimitExceeded, Event::Overflow];

/// The families of a kind of request.
macro_rules! requests {
    ($registrar:expr, $kind:expr, $name:literal) => {{
        let r = $registrar;
        Requests {
            kind: $kind,
            duration: r.histograms(
                concat!("outbound_", $name, "_route_request_duration_seconds"),
                "The time between request initialization and response completion",
                ROUTE_SECONDS,
            ),
            statuses: r.counters(
                concat!("outbound_", $name, "_route_request_statuses_total"),
                "Completed request-response streams by status",
            ),
            frames: r.histograms(
                concat!("outbound_", $name, "_route_request_frame_size_bytes"),
                "Sizes of the data frames of request bodies",
                FRAME_BYTES,
            ),
            backend_requests: r.counters(
                concat!("outbound_", $name, "_route_backend_requests_total"),
                "The total number of requests dispatched",
            ),
            backend_duration: r.histograms(
                concat!("outbound_", $name, "_route_backend_response_duration_seconds"),
                "The time between the dispatch of a request and the end of its response",
                BACKEND_SECONDS,
            ),
            backend_statuses: r.counters(
                concat!("outbound_", $name, "_route_backend_response_statuses_total"),
                "Completed responses by status",
            ),
            backend_frames: r.histograms(
                concat!("outbound_", $name, "_route_backend_response_frame_size_bytes"),
                "Sizes of the data frames of response bodies",
                FRAME_BYTES,
            ),
            retries: [
                r.counters(
                    concat!("outbound_", $name, "_route_retry_requests_total"),
                    "Retried requests",
                ),
                r.counters(
                    concat!("outbound_", $name, "_route_retry_successes_total"),
                    "Retries that brought a good response",
                ),
                r.counters(
                    concat!("outbound_", $name, "_route_retry_limit_exceeded_total"),
                    "Requests that failed although they were retried as often as allowed",
                ),
                r.counters(
                    concat!("outbound_", $name, "_route_retry_overflow_total"),
                    "Requests that were not retried because there was no endpoint for them",
                ),
            ],
        }
    }};
}

/// The families of a kind of connection.
macro_rules! connections {
    ($registrar:expr, $name:literal) => {
        Connections {
            open: $registrar.counters(
                concat!("outbound_", $name, "_route_open_total"),
                "The total number of connections opened",
            ),
            close: $registrar.counters(
                concat!("outbound_", $name, "_route_close_total"),
                "The total number of connections closed",
            ),
        }
    };
}

impl OutboundRouteMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            http: requests!(registrar, RequestKind::Http, "http"),
            grpc: requests!(registrar, RequestKind::Grpc, "grpc"),
            tcp: connections!(registrar, "tcp"),
            tls: connections!(registrar, "tls"),
        }
    }

    /// Requests on `route`, with their hosts as labels if `hosts` is set.
    pub fn route(
        &self,
        kind: RequestKind,
        parent: (&Meta, u16),
        route: &Meta,
        hosts: bool,
    ) -> OutboundRouteSeries {
        let families = self.requests(kind).clone();
        let labels = labels(parent, route);
        OutboundRouteSeries::new(families, labels, hosts.then(Mutex::default))
    }

    /// Requests that `route` sends to `backend`.
    pub fn backend(
        &self,
        kind: RequestKind,
        parent: (&Meta, u16),
        route: &Meta,
        backend: &Meta,
    ) -> OutboundBackendSeries {
        let families = self.requests(kind);
        let mut labels = labels(parent, route);
        target_ref(&mut labels, "backend", backend, 0);
        OutboundBackendSeries(Arc::new(BackendSeries {
            kind,
            requests: families.backend_requests.get(&labels),
            duration: families.backend_duration.get(&labels),
            frames: families.backend_frames.get(&labels),
            statuses: Statuses::new(kind, families.backend_statuses.clone(), labels),
        }))
    }

    /// Connections on `route`.
    pub fn connections(
        &self,
        kind: ConnectionKind,
        parent: (&Meta, u16),
        route: &Meta,
    ) -> ConnectionRouteSeries {
        let families = match kind {
            ConnectionKind::Tcp => &self.tcp,
            ConnectionKind::Tls => &self.tls,
        };
        let labels = labels(parent, route);
        let open = families.open.get(&labels);
        ConnectionRouteSeries { open, close: families.close.clone(), labels }
    }

    fn requests(&self, kind: RequestKind) -> &Requests {
        match kind {
            RequestKind::Http => &self.http,
            RequestKind::Grpc => &self.grpc,
        }
    }
}

fn labels((parent, port): (&Meta, u16), route: &Meta) -> LabelSet {
    let mut labels = LabelSet::default();
    target_ref(&mut labels, "parent", parent, port);
    labels
        .with("route_group", route.group())
        .with("route_kind", route.kind())
        .with("route_namespace", route.namespace())
        .with("route_name", route.name())
}

// === impl OutboundRouteSeries ===

impl OutboundRouteSeries {
    fn new(
        families: Requests,
        labels: LabelSet,
        hosts: Option<Mutex<HashMap<Box<str>, OutboundRouteSeries>>>,
    ) -> Self {
        Self(Arc::new(RouteSeries {
            duration: families.duration.get(&labels),
            frames: families.frames.get(&labels),
            statuses: Statuses::new(families.kind, families.statuses.clone(), labels.clone()),
            retries: families.retries.each_ref().map(|family| family.get(&labels)),
            families,
            labels,
            hosts,
        }))
    }

    /// The series of requests for a host; `None` unless hosts are labels: then this one counts.
    pub fn of_host<'h>(&self, host: impl FnOnce() -> Option<&'h str>) -> Option<Self> {
        let hosts = self.0.hosts.as_ref()?;
        let host = host()?;
        let mut hosts = hosts.lock();
        if let Some(known) = hosts.get(host) {
            return Some(known.clone());
        }
        if hosts.len() >= MOST_HOSTS {
            return None;
        }
        let labels = self.0.labels.clone().with("hostname", host);
        let new = Self::new(self.0.families.clone(), labels, None);
        hosts.insert(host.into(), new.clone());
        Some(new)
    }

    /// Counts what happens to a request that may be sent again.
    pub fn retry(&self, event: Event) {
        let at = EVENTS.iter().position(|known| *known == event);
        if let Some(counter) = at.and_then(|at| self.0.retries.get(at)) {
            counter.incr();
        }
    }
}

// === impl ConnectionRouteSeries ===

impl ConnectionRouteSeries {
    /// A connection was opened.
    pub fn opened(&self) {
        self.open.incr();
    }

    /// It was closed; `error` is empty if it was carried.
    pub fn closed(&self, error: &str) {
        self.close.get(&self.labels.clone().with("error", error)).incr();
    }
}

// === impl Statuses ===

impl Statuses {
    fn new(kind: RequestKind, family: Family<Counter>, labels: LabelSet) -> Self {
        Self { kind, family, labels, usual: OnceLock::new(), others: Mutex::default() }
    }

    fn count(&self, outcome: Outcome) {
        let usual = Outcome {
            status: Some(match self.kind {
                RequestKind::Http => 200,
                RequestKind::Grpc => 0,
            }),
            error: "",
        };
        if outcome == usual {
            self.usual.get_or_init(|| self.counter(outcome)).incr();
            return;
        }
        let mut others = self.others.lock();
        others.entry(outcome).or_insert_with(|| self.counter(outcome)).incr();
    }

    fn counter(&self, Outcome { status, error }: Outcome) -> Counter {
        let (name, status) = match (self.kind, status) {
            (RequestKind::Http, code) => {
                ("http_status", code.map(|c| c.to_string()).unwrap_or_default().into())
            }
            (RequestKind::Grpc, code) => {
                ("grpc_status", code.map(crate::inbound_routes::grpc_name).unwrap_or_default())
            }
        };
        self.family.get(&self.labels.clone().with(name, status).with("error", error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
