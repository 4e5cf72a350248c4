//! # Requests by inbound route
//!
//! Job: `inbound_{http,grpc}_*`: requests, statuses, durations and frame sizes by server and route, and
//! `inbound_http_local_ratelimit_total`.
//! May touch: heads, the sizes of frames, a clock. Must not touch: content. Callers: the inbound half.

use crate::{
    RequestKind,
    labels::server,
    series::{Buckets, Counter, Family, Histogram, LabelSet, Registrar},
};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use mesh_http::{
    Body,
    body::{End, ObserveBody},
};
use mesh_model::meta::Meta;
use parking_lot::Mutex;
use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
    time::Instant,
};

/// The families of both kinds of routes.
#[derive(Clone, Debug)]
pub struct InboundRouteMetrics {
    http: Kind,
    grpc: Kind,
    limited: Family<Counter>,
}

#[derive(Clone, Debug)]
struct Kind {
    requests: Family<Counter>,
    statuses: Family<Counter>,
    request_duration: Family<Histogram>,
    response_duration: Family<Histogram>,
    request_frames: Family<Histogram>,
    response_frames: Family<Histogram>,
}

/// Requests on one route. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct InboundRouteSeries(Arc<Series>);

#[derive(Debug)]
struct Series {
    kind: RequestKind,
    labels: LabelSet,
    statuses: Family<Counter>,
    /// Those seen so far; a route answers with few.
    seen: Mutex<Vec<(u16, Counter)>>,
    requests: Counter,
    request_duration: Histogram,
    response_duration: Histogram,
    request_frames: Histogram,
    response_frames: Histogram,
}

/// One request, from its head to the end of its response.
#[derive(Debug)]
pub struct RouteExchange {
    series: InboundRouteSeries,
    start: Instant,
    request_end: RequestEnd,
    status: Option<u16>,
}

/// Which of a server's limits was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitScope {
    /// That of all clients together.
    Total,
    /// That of one client.
    Identity,
}

const REQUEST_SECONDS: Buckets = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
const RESPONSE_SECONDS: Buckets = &[0.05, 0.5, 1.0, 10.0];
const FRAME_BYTES: Buckets = &[128.0, 1024.0, 10_240.0];

/// Names of the families of a kind, with the kind put in.
macro_rules! kind {
    ($registrar:expr, $kind:literal, $what:literal) => {
        Kind {
            requests: $registrar.counters(
                concat!("inbound_", $kind, "_requests_total"),
                concat!("The number of ", $what, " requests processed by a route"),
            ),
            statuses: $registrar.counters(
                concat!("inbound_", $kind, "_statuses_total"),
                concat!("Completed ", $what, " responses by status"),
            ),
            request_duration: $registrar.histograms(
                concat!("inbound_", $kind, "_request_duration_seconds"),
                "The time between request initialization and response completion",
                REQUEST_SECONDS,
            ),
            response_duration: $registrar.histograms(
                concat!("inbound_", $kind, "_response_duration_seconds"),
                "The time between request completion and response completion",
                RESPONSE_SECONDS,
            ),
            request_frames: $registrar.histograms(
                concat!("inbound_", $kind, "_request_frame_size_bytes"),
                "Sizes of the data frames of request bodies",
                FRAME_BYTES,
            ),
            response_frames: $registrar.histograms(
                concat!("inbound_", $kind, "_response_frame_size_bytes"),
                "Sizes of the data frames of response bodies",
                FRAME_BYTES,
            ),
        }
    };
}

// === impl InboundRouteMetrics ===

impl InboundRouteMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            http: kind!(registrar, "http", "HTTP"),
            grpc: kind!(registrar, "grpc", "gRPC"),
            limited: registrar.counters(
                "inbound_http_local_ratelimit_total",
                "The total number of inbound HTTP requests that were refused by a rate limit",
            ),
        }
    }

    /// Requests on `route` of the server `parent` on `port`.
    pub fn series(
        &self,
        kind: RequestKind,
        parent: &Meta,
        port: u16,
        route: &Meta,
    ) -> InboundRouteSeries {
        let families = match kind {
            RequestKind::Http => &self.http,
            RequestKind::Grpc => &self.grpc,
        };
        let labels = LabelSet::default()
            .with("parent_group", parent.group())
            .with("parent_kind", parent.kind())
            .with("parent_name", parent.name())
            .with("parent_port", port.to_string())
            .with("route_group", route.group())
            .with("route_kind", route.kind())
            .with("route_name", route.name());
        InboundRouteSeries(Arc::new(Series {
            kind,
            statuses: families.statuses.clone(),
            seen: Mutex::default(),
            requests: families.requests.get(&labels),
            request_duration: families.request_duration.get(&labels),
            response_duration: families.response_duration.get(&labels),
            request_frames: families.request_frames.get(&labels),
            response_frames: families.response_frames.get(&labels),
            labels,
        }))
    }

    /// The count of requests that a limit refuses.
    pub fn limited(&self, parent: &Meta, port: u16, by: &Meta, scope: RateLimitScope) -> Counter {
        let mut labels = LabelSet::default();
        server(&mut labels, parent, port);
        labels.push("ratelimit_group", by.group());
        labels.push("ratelimit_kind", by.kind());
        labels.push("ratelimit_name", by.name());
        labels.push("ratelimit_scope", scope.as_str());
        self.limited.get(&labels)
    }
}

impl RateLimitScope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Identity => "identity",
        }
    }
}

// === impl InboundRouteSeries ===

impl InboundRouteSeries {
    /// Counts a request and watches its body, if it has one.
    pub fn begin(&self, request: &mut Request<Body>) -> RouteExchange {
        self.0.requests.incr();
        let (series, start) = (self.clone(), Instant::now());
        if request.body().is_end_stream() {
            let request_end = RequestEnd::At(start);
            return RouteExchange { series, start, request_end, status: None };
        }
        let end = Arc::new(OnceLock::new());
        let watch = RequestBody { series: self.clone(), end: end.clone() };
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.observed(watch);
        RouteExchange { series, start, request_end: RequestEnd::Watched(end), status: None }
    }

    fn finished(&self, status: u16) {
        let mut seen = self.0.seen.lock();
        if let Some((_, counter)) = seen.iter().find(|(known, _)| *known == status) {
            counter.incr();
            return;
        }
        let text = match self.0.kind {
            RequestKind::Http => Cow::Owned(status.to_string()),
            RequestKind::Grpc => grpc_name(status),
        };
        let counter = self.0.statuses.get(&self.0.labels.clone().with("status", text));
        counter.incr();
        if seen.len() < usize::from(u8::MAX) {
            seen.push((status, counter));
        }
    }
}

/// When a request has come to its end.
#[derive(Debug)]
enum RequestEnd {
    /// It had no body.
    At(Instant),
    Watched(Arc<OnceLock<Instant>>),
}

struct RequestBody {
    series: InboundRouteSeries,
    end: Arc<OnceLock<Instant>>,
}

impl ObserveBody for RequestBody {
    fn data(&mut self, len: usize) {
        self.series.0.request_frames.observe(len as f64);
    }

    fn end(&mut self, _: End<'_>) {
        let _ = self.end.set(Instant::now());
    }
}

// === impl RouteExchange ===

impl RouteExchange {
    /// The head of the response has come.
    pub fn head<B>(&mut self, response: &Response<B>) {
        self.status = match self.series.0.kind {
            RequestKind::Http => Some(response.status().as_u16()),
            RequestKind::Grpc => grpc_status(response.headers()),
        };
    }

    /// The request failed before a response; `status` is what the client is told.
    pub fn fail(mut self, status: StatusCode, grpc: u16) {
        self.status = Some(match self.series.0.kind {
            RequestKind::Http => status.as_u16(),
            RequestKind::Grpc => grpc,
        });
        self.finish();
    }

    fn finish(&mut self) {
        let now = Instant::now();
        let Series { request_duration, response_duration, .. } = &*self.series.0;
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        request_duration.observe(seconds(self.start));
        let request_end = match &self.request_end {
            RequestEnd::At(end) => Some(*end),
            RequestEnd::Watched(end) => end.get().copied(),
        };
        // A response may end before its request does.
        response_duration.observe(request_end.map_or(0.0, seconds));
        self.series.finished(self.status.unwrap_or(UNKNOWN));
    }
}

impl ObserveBody for RouteExchange {
    fn data(&mut self, len: usize) {
        self.series.0.response_frames.observe(len as f64);
    }

    fn end(&mut self, end: End<'_>) {
        if let End::Complete(Some(trailers)) = end
            && self.status.is_none()
        {
            self.status = grpc_status(trailers);
        }
        self.finish();
    }
}

/// gRPC's UNKNOWN: a response without a status.
const UNKNOWN: u16 = 2;

fn grpc_status(headers: &http::HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

pub(crate) fn grpc_name(code: u16) -> Cow<'static, str> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).map_or_else(|| code.to_string().into(), |name| (*name).into())
}
