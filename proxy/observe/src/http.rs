//! # Requests and responses
//!
//! Job: `request_total`, `response_latency_ms`, `response_total`, and the body that sees the end of a
//! response.
//! May touch: response heads, frames and trailers, a clock. Must not touch: their content.
//! Callers: the inbound and outbound HTTP paths.

use crate::{
    labels::{InboundLabels, OutboundLabels},
    series::{Buckets, Counter, Family, Histogram, LabelSet, Registrar},
};
use bytes::Buf;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
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
        Exchange { series: self.clone(), kind, start: Instant::now() }
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
    pub fn respond<B: Body>(self, response: Response<B>) -> Response<MeasuredBody<B>> {
        let (head, body) = response.into_parts();
        let grpc = match self.kind {
            RequestKind::Grpc => grpc_status(&head.headers),
            RequestKind::Http => None,
        };
        let mut measured = MeasuredBody {
            body,
            end: Some(End { exchange: self, status: head.status, grpc }),
            begun: false,
        };
        if measured.body.is_end_stream() {
            measured.first();
            measured.finish(None, StreamError::None);
        }
        Response::from_parts(head, measured)
    }

    /// The request failed before a response; `status` is what the client is told.
    pub fn fail(self, status: StatusCode, error: StreamError) {
        let class = Classify { failure: true, grpc_status: None };
        self.series.finished(Outcome { status, class, error });
    }
}

/// A response body that is judged when it ends. Dropped before its end it counts as cancelled, which is no
/// failure of the server.
#[derive(Debug)]
pub struct MeasuredBody<B> {
    body: B,
    end: Option<End>,
    begun: bool,
}

#[derive(Debug)]
struct End {
    exchange: Exchange,
    status: StatusCode,
    grpc: Option<u16>,
}

impl<B> MeasuredBody<B> {
    /// A body that nobody counts.
    pub fn unmeasured(body: B) -> Self {
        Self { body, end: None, begun: true }
    }

    fn first(&mut self) {
        if let (false, Some(end)) = (self.begun, &self.end) {
            end.exchange.series.first_frame(end.status, end.exchange.start);
        }
        self.begun = true;
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>, error: StreamError) {
        let Some(End { exchange, status, grpc }) = self.end.take() else { return };
        let mut class = Classify::end(exchange.kind, status, grpc, trailers);
        class.failure |= error != StreamError::None;
        exchange.series.finished(Outcome { status, class, error });
    }
}

impl<B> Body for MeasuredBody<B>
where
    B: Body + Unpin,
    B::Data: Buf,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.first();
        match &frame {
            None => this.finish(None, StreamError::None),
            Some(Err(_)) => this.finish(None, StreamError::Unclassified),
            Some(Ok(frame)) => match frame.trailers_ref() {
                Some(trailers) => this.finish(Some(trailers), StreamError::None),
                None if this.body.is_end_stream() => this.finish(None, StreamError::None),
                None => {}
            },
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for MeasuredBody<B> {
    fn drop(&mut self) {
        self.finish(None, StreamError::None);
    }
}
