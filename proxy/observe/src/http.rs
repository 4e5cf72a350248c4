//! # Requests and responses
//!
//! Job: `request_total`, `response_latency_ms`, `response_total`, and the observer that sees the end of a
//! response.
//! May touch: response heads, frames and trailers, a clock. Must not touch: their content.
//! Callers: the inbound and outbound HTTP paths.

use crate::{
    labels::{InboundLabels, OutboundLabels},
    series::{Buckets, Counter, Family, Histogram, LabelSet, Registrar},
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body as _;
use mesh_http::{
    Body, Error,
    body::{End, ObserveBody},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

/// The families of requests.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<Counter>,
    responses: Family<Counter>,
    latency: Family<Histogram>,
}

/// Requests to one endpoint. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct HttpSeries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    families: HttpMetrics,
    labels: LabelSet,
    requests: Counter,
    /// The usual outcome, without a lock.
    usual: OnceLock<(Counter, Histogram)>,
    others: Mutex<HashMap<Outcome, Counter>>,
    latencies: Mutex<HashMap<StatusCode, Histogram>>,
}

/// How a request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// By status code.
    Http,
    /// By `grpc-status`.
    Grpc,
}

/// How the end of a response is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Classify {
    /// Whether it counts as failure.
    pub failure: bool,
    /// `grpc-status`, of gRPC requests.
    pub grpc_status: Option<u16>,
}

/// Why a response ended early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StreamError {
    /// It did not.
    #[default]
    None,
    /// A deadline.
    Timeout,
    /// An HTTP/2 reset with this reason.
    Reset(&'static str),
    /// Anything else.
    Unclassified,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Outcome {
    status: StatusCode,
    class: Classify,
    error: StreamError,
}

/// One request on its way: counted when made, judged when its response ends.
#[derive(Debug)]
pub struct Exchange {
    series: HttpSeries,
    kind: RequestKind,
    start: Instant,
    status: StatusCode,
    grpc: Option<u16>,
    begun: bool,
}

const LATENCY_MS: Buckets = &[
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0,
    1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0,
];

// === impl HttpMetrics ===

impl HttpMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            requests: registrar.counters("request_total", "Total count of HTTP requests."),
            responses: registrar.counters("response_total", "Total count of HTTP responses."),
            latency: registrar.histograms(
                "response_latency_ms",
                "Time from a request to the first frame of its response's body, milliseconds.",
                LATENCY_MS,
            ),
        }
    }

    /// Requests toward the application.
    pub fn inbound(&self, labels: &InboundLabels) -> HttpSeries {
        self.series(labels.set())
    }

    /// Requests toward a peer.
    pub fn outbound(&self, labels: &OutboundLabels) -> HttpSeries {
        self.series(labels.set())
    }

    fn series(&self, labels: LabelSet) -> HttpSeries {
        HttpSeries(Arc::new(Inner {
            requests: self.requests.get(&labels),
            families: self.clone(),
            labels,
            usual: OnceLock::new(),
            others: Mutex::default(),
            latencies: Mutex::default(),
        }))
    }
}

// === impl HttpSeries ===

impl HttpSeries {
    /// Counts a request.
    pub fn begin<B>(&self, request: &Request<B>) -> Exchange {
        self.begin_kind(RequestKind::of(request.headers()))
    }

    /// Counts a request whose kind is known.
    pub fn begin_kind(&self, kind: RequestKind) -> Exchange {
        self.0.requests.incr();
        Exchange {
            series: self.clone(),
            kind,
            start: Instant::now(),
            status: StatusCode::OK,
            grpc: None,
            begun: false,
        }
    }

    fn finished(&self, outcome: Outcome) {
        if outcome.is_usual() {
            self.usual().0.incr();
            return;
        }
        let mut others = self.0.others.lock();
        match others.get(&outcome) {
            Some(counter) => counter.incr(),
            None => {
                let counter = self.0.families.responses.get(&outcome.labels(&self.0.labels));
                counter.incr();
                others.insert(outcome, counter);
            }
        }
    }

    fn first_frame(&self, status: StatusCode, start: Instant) {
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        if status == StatusCode::OK {
            self.usual().1.observe(ms);
            return;
        }
        let mut latencies = self.0.latencies.lock();
        let histogram = latencies
            .entry(status)
            .or_insert_with(|| self.0.families.latency.get(&with_status(&self.0.labels, status)));
        histogram.observe(ms);
    }

    fn usual(&self) -> &(Counter, Histogram) {
        self.0.usual.get_or_init(|| {
            let labels = &self.0.labels;
            let latency = with_status(labels, StatusCode::OK);
            let families = &self.0.families;
            (
                families.responses.get(&Outcome::usual().labels(labels)),
                families.latency.get(&latency),
            )
        })
    }
}

fn with_status(labels: &LabelSet, status: StatusCode) -> LabelSet {
    labels.clone().with("status_code", status.as_str())
}

impl Outcome {
    fn usual() -> Self {
        let class = Classify { failure: false, grpc_status: None };
        Self { status: StatusCode::OK, class, error: StreamError::None }
    }

    fn is_usual(&self) -> bool {
        *self == Self::usual()
    }

    fn labels(&self, endpoint: &LabelSet) -> LabelSet {
        let error = match self.error {
            StreamError::None => String::new(),
            StreamError::Timeout => "timeout".to_owned(),
            StreamError::Reset(reason) => format!("h2({reason})"),
            StreamError::Unclassified => "unclassified".to_owned(),
        };
        with_status(endpoint, self.status)
            .with("classification", if self.class.failure { "failure" } else { "success" })
            .with("grpc_status", self.class.grpc_status.map(|s| s.to_string()).unwrap_or_default())
            .with("error", error)
    }
}

// === judging ===

impl RequestKind {
    /// gRPC if the content type says so.
    pub fn of(headers: &HeaderMap) -> Self {
        let grpc = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        if grpc { Self::Grpc } else { Self::Http }
    }
}

impl Classify {
    /// The judgement at the end of a response. A gRPC response without a status counts as a success
    /// with status UNKNOWN, as Linkerd has it.
    pub fn end(
        kind: RequestKind,
        status: StatusCode,
        headers: Option<u16>,
        trailers: Option<&HeaderMap>,
    ) -> Self {
        match kind {
            RequestKind::Http => Self { failure: status.is_server_error(), grpc_status: None },
            RequestKind::Grpc if status.is_server_error() => {
                Self { failure: true, grpc_status: headers }
            }
            RequestKind::Grpc => match headers.or_else(|| trailers.and_then(grpc_status)) {
                None => Self { failure: false, grpc_status: Some(2) },
                Some(code) => Self { failure: is_grpc_failure(code), grpc_status: Some(code) },
            },
        }
    }
}

/// `grpc-status`, if it is a number.
fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
fn is_grpc_failure(code: u16) -> bool {
    matches!(code, 2 | 4 | 7 | 13 | 14 | 15)
}

// === impl Exchange ===

impl Exchange {
    /// Watches the response's body to its end.
    pub fn respond(mut self, response: Response<Body>) -> Response<Body> {
        self.head(&response);
        let (head, body) = response.into_parts();
        if body.is_end_stream() {
            self.end(End::Complete(None));
            return Response::from_parts(head, body);
        }
        Response::from_parts(head, body.observed(self))
    }

    /// The request failed before a response; `status` is what the client is told.
    pub fn fail(self, status: StatusCode, error: StreamError) {
        let class = Classify { failure: true, grpc_status: None };
        self.series.finished(Outcome { status, class, error });
    }

    fn head(&mut self, response: &Response<Body>) {
        self.status = response.status();
        if self.kind == RequestKind::Grpc {
            self.grpc = grpc_status(response.headers());
        }
    }

    fn first(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.series.first_frame(self.status, self.start);
        }
    }
}

/// The end of a body is the end of its exchange. A body dropped before its end counts as cancelled, which
/// is no failure of the server.
impl ObserveBody for Exchange {
    fn data(&mut self, _: usize) {
        self.first();
    }

    fn end(&mut self, end: End<'_>) {
        self.first();
        let (trailers, error) = match end {
            End::Complete(trailers) => (trailers, StreamError::None),
            End::Failed(error) => (None, StreamError::of(error)),
            End::Dropped => (None, StreamError::None),
        };
        let mut class = Classify::end(self.kind, self.status, self.grpc, trailers);
        class.failure |= error != StreamError::None;
        self.series.finished(Outcome { status: self.status, class, error });
    }
}

impl StreamError {
    /// How an error of a stream shows in the `error` label.
    pub fn of(error: &Error) -> Self {
        match error.h2_reason() {
            Some(reason) => Self::Reset(reason_name(reason)),
            None => match error.kind() {
                "timeout" => Self::Timeout,
                _ => Self::Unclassified,
            },
        }
    }
}

/// RFC 9113, section 7.
fn reason_name(reason: h2::Reason) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let code: u32 = reason.into();
    NAMES.get(code as usize).copied().unwrap_or("UNKNOWN")
}
