//! # Export of spans
//!
//! Job: send finished spans to the collector, in batches of at most 1000 or 10 s, one call at a time.
//! May touch: a connected channel that it is given. Must not touch: sockets, requests.
//! Callers: the wiring runs it.

use super::{
    Span, Value,
    otlp::{
        EXPORT, ExportRequest, ExportResponse, KeyValue, ResourceMessage, ResourceSpans, Scope,
        ScopeSpans, SpanMessage, nanos,
    },
};
use crate::series::{Counter, LabelSet, Registrar};
use http::uri::PathAndQuery;
use std::time::{Duration, SystemTime};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tonic::{Status, body::Body, client::GrpcService};

/// The families of the exporter. Made only where spans are exported.
#[derive(Clone, Debug)]
pub struct ExportMetrics {
    streams: Counter,
    requests: Counter,
    exported: Counter,
    pub(crate) queue_full: Counter,
    failed: Counter,
}

/// What all spans of a process have in common: names and values, the later ones win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    attributes: Vec<(String, String)>,
}

/// Sends spans.
#[derive(Debug)]
pub struct Exporter<C> {
    client: tonic::client::Grpc<C>,
    resource: ResourceMessage,
    spans: mpsc::Receiver<Span>,
    metrics: ExportMetrics,
}

/// Most spans of one call.
const BATCH: usize = 1000;
/// Longest time that a span waits for others.
const LINGER: Duration = Duration::from_secs(10);
/// Longest time that the collector may take. Meanwhile spans queue, then are dropped.
const ANSWER: Duration = Duration::from_secs(10);

impl ExportMetrics {
    /// Registers the families.
    pub fn new(registrar: &Registrar) -> Self {
        let single = |name, help| registrar.counters(name, help).single();
        let dropped = registrar
            .counters("opentelemetry_span_drops_total", "Spans that did not reach the collector.");
        let because = |reason| dropped.get(&LabelSet::default().with("reason", reason));
        Self {
            streams: single("opentelemetry_span_export_streams_total", "Starts of the exporter."),
            requests: single(
                "opentelemetry_span_export_requests_total",
                "Batches that were sent to the collector.",
            ),
            exported: single("opentelemetry_span_exports_total", "Spans that it has taken."),
            queue_full: because("queue_full"),
            failed: because("export_failed"),
        }
    }
}

impl Resource {
    /// Adds an attribute, or replaces it.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((name, value)),
        }
    }

    /// Adds `name=value` pairs, which `separators` part; quotes around a value go (a file of Pod labels has
    /// them). What is no pair is passed over.
    pub fn extend(&mut self, text: &str, separators: &[char]) {
        for pair in text.split(separators) {
            if let Some((name, value)) = pair.trim().split_once('=').filter(|(n, _)| !n.is_empty())
            {
                self.set(name.trim(), value.trim().trim_matches('"'));
            }
        }
    }

    /// The attributes.
    pub fn attributes(&self) -> &[(String, String)] {
        &self.attributes
    }

    fn message(self) -> ResourceMessage {
        let numbers = [
            ("process.pid", i64::from(std::process::id())),
            ("process.start_timestamp", nanos(SystemTime::now()).cast_signed()),
        ];
        let numbers = numbers.map(|(name, value)| KeyValue::new(name, Value::Int(value)));
        let texts = self.attributes.into_iter();
        let texts = texts.map(|(name, value)| KeyValue::new(name, Value::Text(value)));
        ResourceMessage { attributes: numbers.into_iter().chain(texts).collect() }
    }
}

/// Waits for the end; a sender that is gone is one.
async fn ended(over: &mut watch::Receiver<bool>) {
    let _ = over.wait_for(|over| *over).await;
}

impl<C> Exporter<C>
where
    C: GrpcService<Body>,
    C::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An exporter to the collector at `origin`.
    pub fn new(
        channel: C,
        origin: http::Uri,
        resource: Resource,
        spans: mpsc::Receiver<Span>,
        metrics: ExportMetrics,
    ) -> Self {
        let client = tonic::client::Grpc::with_origin(channel, origin);
        Self { client, resource: resource.message(), spans, metrics }
    }

    /// Runs until `over` is true, or every tracer is gone; then sends the rest. To be called again after a
    /// panic.
    pub async fn run(&mut self, mut over: watch::Receiver<bool>) {
        self.metrics.streams.incr();
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                first = self.spans.recv() => first,
                () = ended(&mut over), if !self.spans.is_closed() => {
                    self.spans.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            batch.push(first);
            let until = Instant::now() + LINGER;
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                let more = tokio::select! {
                    more = timeout_at(until, self.spans.recv_many(&mut batch, room)) => more,
                    () = ended(&mut over), if !self.spans.is_closed() => {
                        self.spans.close();
                        continue;
                    }
                };
                // In time, and not because there is nobody left.
                if !matches!(more, Ok(1..)) {
                    break;
                }
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        self.metrics.requests.incr();
        let sent = match timeout(ANSWER, self.export(spans)).await {
            Ok(sent) => sent,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        let lost = match sent {
            Ok(response) => {
                let part = response.partial_success.unwrap_or_default();
                if !part.error_message.is_empty() {
                    tracing::debug!(reason = part.error_message, "The collector complains");
                }
                u64::try_from(part.rejected_spans).unwrap_or_default().min(count)
            }
            Err(status) => {
                tracing::debug!(spans = count, %status, "Spans cannot be exported");
                count
            }
        };
        self.metrics.exported.add(count - lost);
        self.metrics.failed.add(lost);
    }

    async fn export(&mut self, spans: Vec<Span>) -> Result<ExportResponse, Status> {
        let scope =
            Scope { name: "mesh-proxy".into(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let spans = spans.into_iter().map(SpanMessage::from).collect();
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
            }],
        };
        let ready = self.client.ready().await;
        ready.map_err(|error| Status::unavailable(error.into().to_string()))?;
        let codec = tonic_prost::ProstCodec::<ExportRequest, ExportResponse>::default();
        let path = PathAndQuery::from_static(EXPORT);
        let answer = self.client.unary(tonic::Request::new(request), path, codec).await?;
        Ok(answer.into_inner())
    }
}
