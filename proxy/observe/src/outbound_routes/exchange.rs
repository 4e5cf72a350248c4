//! # One request on a route
//!
//! Job: watch a request and the attempts that serve it, to their ends. One observer a response: route and
//! backend count together.
//! May touch: heads, the sizes of frames, a clock. Callers: the outbound half.

use super::{OutboundBackendSeries, OutboundRouteSeries, Outcome};
use crate::RequestKind;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use mesh_http::{
    Body, Error,
    body::{End, ObserveBody},
    classify::grpc_status,
    timeouts::TimeoutKind,
};
use std::time::Instant;

/// A request on a route, retries included.
#[derive(Debug)]
pub struct RouteExchange {
    series: OutboundRouteSeries,
    start: Instant,
}

/// An attempt at a backend.
#[derive(Debug)]
pub struct BackendExchange {
    series: OutboundBackendSeries,
    start: Instant,
}

/// What a response is counted in.
#[derive(Debug)]
pub struct OutboundExchange {
    /// As the request's last response.
    pub route: Option<RouteExchange>,
    /// As an attempt.
    pub backend: Option<BackendExchange>,
}

struct Watch {
    exchange: OutboundExchange,
    kind: RequestKind,
    /// `None` until the trailers of gRPC.
    status: Option<u16>,
}

impl OutboundRouteSeries {
    /// Watches a request's body, if it has one.
    pub fn begin(&self, request: &mut Request<Body>) -> RouteExchange {
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = body.observed(Frames(self.clone()));
        }
        RouteExchange { series: self.clone(), start: Instant::now() }
    }
}

impl OutboundBackendSeries {
    /// Counts an attempt.
    pub fn begin(&self) -> BackendExchange {
        self.0.requests.incr();
        BackendExchange { series: self.clone(), start: Instant::now() }
    }
}

impl OutboundExchange {
    /// Watches a response to its end.
    pub fn respond(self, response: Response<Body>) -> Response<Body> {
        let Some(kind) = self.kind() else { return response };
        let status = match kind {
            RequestKind::Http => Some(response.status().as_u16()),
            RequestKind::Grpc => grpc_status(response.headers()),
        };
        let watch = Watch { exchange: self, kind, status };
        if response.body().is_end_stream() {
            watch.finish("");
            return response;
        }
        response.map(|body| body.observed(watch))
    }

    /// No response came.
    pub fn failed(self, error: &Error) {
        self.count(Outcome { status: None, error: label(error) });
    }

    fn kind(&self) -> Option<RequestKind> {
        let route = self.route.as_ref().map(|r| r.series.0.families.kind);
        route.or(self.backend.as_ref().map(|b| b.series.0.kind))
    }

    fn count(self, outcome: Outcome) {
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        if let Some(RouteExchange { series, start }) = self.route {
            series.0.duration.observe(seconds(start));
            series.0.statuses.count(outcome);
        }
        if let Some(BackendExchange { series, start }) = self.backend {
            series.0.duration.observe(seconds(start));
            series.0.statuses.count(outcome);
        }
    }
}

impl Watch {
    fn finish(self, error: &'static str) {
        let status = match self.kind {
            RequestKind::Http => self.status,
            RequestKind::Grpc => self.status.or((error.is_empty()).then_some(UNKNOWN)),
        };
        self.exchange.count(Outcome { status, error });
    }
}

impl ObserveBody for Watch {
    fn data(&mut self, len: usize) {
        if let Some(backend) = &self.exchange.backend {
            backend.series.0.frames.observe(len as f64);
        }
    }

    fn end(&mut self, end: End<'_>) {
        let error = match end {
            End::Complete(trailers) => {
                if self.kind == RequestKind::Grpc && self.status.is_none() {
                    self.status = trailers.and_then(|t: &HeaderMap| grpc_status(t));
                }
                ""
            }
            End::Failed(error) => label(error),
            End::Dropped => "CANCEL",
        };
        let exchange = OutboundExchange {
            route: self.exchange.route.take(),
            backend: self.exchange.backend.take(),
        };
        Watch { exchange, kind: self.kind, status: self.status }.finish(error);
    }
}

/// Sizes of what a client sends.
struct Frames(OutboundRouteSeries);

impl ObserveBody for Frames {
    fn data(&mut self, len: usize) {
        self.0.0.frames.observe(len as f64);
    }

    fn end(&mut self, _: End<'_>) {}
}

/// gRPC's UNKNOWN: a response without a status.
const UNKNOWN: u16 = 2;

/// The `error` label.
fn label(error: &Error) -> &'static str {
    if let Some(reason) = error.h2_reason() {
        let gone = matches!(error.root(), Error::H2(error) if error.is_go_away());
        return match reason {
            _ if gone => "GO_AWAY",
            h2::Reason::CANCEL => "CANCEL",
            h2::Reason::REFUSED_STREAM => "REFUSED",
            h2::Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            _ => "RESET",
        };
    }
    match error.root() {
        Error::FailFast => "FAIL_FAST",
        Error::LoadShed => "LOAD_SHED",
        Error::Timeout(timeout) => match timeout.kind {
            TimeoutKind::Request => "REQUEST_TIMEOUT",
            TimeoutKind::Head => "RESPONSE_HEADERS_TIMEOUT",
            TimeoutKind::Response => "RESPONSE_STREAM_TIMEOUT",
            TimeoutKind::Idle => "IDLE_TIMEOUT",
        },
        Error::OrigProtoReset(_) => "RESET",
        Error::Connect(_) | Error::H2(_) | Error::Hyper(_) | Error::Io(_) => "IO",
        _ => "UNKNOWN",
    }
}
