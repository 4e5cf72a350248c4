//! # Spans
//!
//! Job: a span for each sampled request that passes, server and client side of the proxy alike: taken from
//! the context that the request brings, told to the application behind, and handed to the exporter.
//! May touch: trace headers of requests, a clock. Must not touch: other headers, connections.
//! Callers: the inbound and outbound HTTP paths begin spans; the wiring runs the exporter.
//!
//! Nothing is invented: a request without a context has no span. Without a collector there is no
//! [`Tracer`], and a request pays one look at an empty cell.

mod context;
mod export;
mod otlp;

pub use self::{
    context::{Context, Format},
    export::{ExportMetrics, Exporter, Resource},
};

use crate::{labels::Direction, series::Counter};
use http::{HeaderName, Request, StatusCode, header, uri};
use std::time::SystemTime;
use tokio::sync::mpsc;

/// Begins spans. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    sink: mpsc::Sender<Span>,
    dropped: Counter,
}

/// Which side of a hop a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// The proxy as a server.
    Server,
    /// The proxy as a client.
    Client,
}

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub(crate) context: Context,
    pub(crate) id: [u8; 8],
    pub(crate) kind: SpanKind,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value)>,
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
}

/// A span that goes on; it is exported when it ends, at the latest on drop.
#[derive(Debug)]
pub struct OpenSpan {
    tracer: Tracer,
    /// Present until it is exported. Boxed: requests without a span make room for one.
    span: Option<Box<Span>>,
}

/// Spans that may wait for the exporter, one of its batches; more are dropped and counted.
const QUEUE: usize = 1000;

const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");

// === impl Tracer ===

impl Tracer {
    /// A tracer, and what its exporter reads.
    pub fn new(metrics: &ExportMetrics) -> (Self, mpsc::Receiver<Span>) {
        let (sink, spans) = mpsc::channel(QUEUE);
        (Self { sink, dropped: metrics.queue_full.clone() }, spans)
    }

    /// Begins a span if the request brings a sampled context, and makes it the parent of what follows. A
    /// context that is not sampled passes untouched.
    pub fn begin<B>(
        &self,
        direction: Direction,
        kind: SpanKind,
        request: &mut Request<B>,
    ) -> Option<OpenSpan> {
        let context = Context::of(request.headers()).filter(|context| context.sampled)?;
        let id = new_id();
        let state = request.headers().get("tracestate").and_then(|v| v.to_str().ok());
        let now = SystemTime::now();
        let span = Box::new(Span {
            id,
            kind,
            state: state.unwrap_or_default().to_owned(),
            name: request.uri().path().to_owned(),
            start: now,
            end: now,
            attributes: attributes(direction, request),
            context: context.clone(),
        });
        context.descend(id, request.headers_mut());
        Some(OpenSpan { tracer: self.clone(), span: Some(span) })
    }
}

/// Not zero, which would mean that there is none.
fn new_id() -> [u8; 8] {
    rand::random::<u64>().max(1).to_be_bytes()
}

// === impl OpenSpan ===

impl OpenSpan {
    /// The response has come.
    pub fn end(mut self, status: StatusCode) {
        if let Some(span) = &mut self.span {
            let status = Value::Int(status.as_u16().into());
            span.attributes.push(("http.response.status_code", status));
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.end = SystemTime::now();
            if self.tracer.sink.try_send(*span).is_err() {
                self.tracer.dropped.incr();
            }
        }
    }
}

// === attributes ===

fn attributes<B>(direction: Direction, request: &Request<B>) -> Vec<(&'static str, Value)> {
    let (uri, headers) = (request.uri(), request.headers());
    let text = |name: HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.map(|value| Value::Text(value.to_owned()))
    };
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let named = host.and_then(|host| host.parse::<uri::Authority>().ok());
    let authority = uri.authority().cloned().or(named);
    let scheme = uri.scheme_str().unwrap_or("http");
    let some = |value: &str| Some(Value::Text(value.to_owned()));
    let full = authority.as_ref().map(|authority| {
        let hidden = if authority.as_str().contains('@') { "REDACTED:REDACTED@" } else { "" };
        let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
        let rest = uri.path_and_query().map_or("/", uri::PathAndQuery::as_str);
        Value::Text(format!("{scheme}://{hidden}{}{port}{rest}", authority.host()))
    });
    let port = authority.as_ref().and_then(uri::Authority::port_u16);
    let all = [
        ("direction", some(direction.as_str())),
        ("http.request.method", some(request.method().as_str())),
        ("url.scheme", some(scheme)),
        ("url.path", some(uri.path())),
        ("url.query", uri.query().and_then(some)),
        ("url.full", full),
        ("network.transport", some("tcp")),
        ("server.address", authority.as_ref().and_then(|a| some(a.host()))),
        ("server.port", port.map(|port| Value::Int(port.into()))),
        ("user_agent.original", text(header::USER_AGENT)),
        ("http.request.header.content-length", text(header::CONTENT_LENGTH)),
        ("http.request.header.content-type", text(header::CONTENT_TYPE)),
        ("http.request.header.l5d-orig-proto", text(ORIG_PROTO)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
