//! # Requests and responses
//!
//! Job: `request_total`, `response_latency_ms`, `response_total`, also with a prefix (`control_`), and the
//! observer that sees the end of a response.
//! May touch: response heads, frames and trailers, a clock. Must not touch: their content.
//! Callers: the inbound and outbound HTTP paths.

use crate::{
    labels::{InboundLabels, OutboundLabels},
    series::{Buckets, Counter, Family, Histogram, LabelSet, Registrar},
};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use mesh_http::{
    Body, Error,
    body::{End, ObserveBody},
    classify::{Class, Classify, Head, Kind},
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
    class: Class,
    error: StreamError,
}

/// One request on its way: counted when made, judged when its response ends.
#[derive(Debug)]
pub struct Exchange {
    series: HttpSeries,
    also: Option<HttpSeries>,
    classify: Classify,
    start: Instant,
    head: Option<Head>,
    begun: bool,
}

const LATENCY_MS: Buckets = &[
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0,
    1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0,
];

// === impl HttpMetrics ===

impl HttpMetrics {
    /// The names of the families of requests, responses and latency.
    pub(crate) fn new(registrar: &Registrar, names: [&'static str; 3]) -> Self {
        let [requests, responses, latency] = names;
        Self {
            requests: registrar.counters(requests, "Requests sent or received."),
            responses: registrar.counters(responses, "Responses, counted at their end."),
            latency: registrar.histograms(
                latency,
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

    /// Requests with these labels.
    pub fn series(&self, labels: LabelSet) -> HttpSeries {
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
        self.begin_judged(Classify::request(request.headers()))
    }

    /// Counts a request whose kind is known.
    pub fn begin_kind(&self, kind: Kind) -> Exchange {
        self.begin_judged(kind.into())
    }

    /// Counts a request that is judged by these rules.
    pub fn begin_judged(&self, classify: Classify) -> Exchange {
        self.0.requests.incr();
        let (series, start) = (self.clone(), Instant::now());
        Exchange { series, also: None, classify, start, head: None, begun: false }
    }

    fn finished(&self, outcome: &Outcome) {
        if outcome.is_usual() {
            self.usual().0.incr();
            return;
        }
        let mut others = self.0.others.lock();
        match others.get(outcome) {
            Some(counter) => counter.incr(),
            None => {
                let counter = self.0.families.responses.get(&outcome.labels(&self.0.labels));
                counter.incr();
                others.insert(outcome.clone(), counter);
            }
        }
    }

    fn first_frame(&self, status: StatusCode, ms: f64) {
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
        let class = Class { failure: false, grpc_status: None };
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

// === impl Exchange ===

impl Exchange {
    /// Counts the request in a second series too.
    #[must_use]
    pub fn also(mut self, series: &HttpSeries) -> Self {
        series.0.requests.incr();
        self.also = Some(series.clone());
        self
    }

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
        let class = Class { failure: true, grpc_status: None };
        self.finished(&Outcome { status, class, error });
    }

    /// The head of the response has come; its body tells this observer the rest.
    pub fn head<B>(&mut self, response: &Response<B>) {
        self.head = Some(self.classify.head(response));
    }

    fn first(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            let status = self.head.map_or(StatusCode::OK, Head::status);
            let ms = self.start.elapsed().as_secs_f64() * 1000.0;
            self.all().for_each(|series| series.first_frame(status, ms));
        }
    }

    fn finished(&self, outcome: &Outcome) {
        self.all().for_each(|series| series.finished(outcome));
    }

    fn all(&self) -> impl Iterator<Item = &HttpSeries> {
        std::iter::once(&self.series).chain(&self.also)
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
        let Some(head) = self.head else { return };
        let mut class = head.end(trailers);
        class.failure |= error != StreamError::None;
        self.finished(&Outcome { status: head.status(), class, error });
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
