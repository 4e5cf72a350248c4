//! # Spans on their way to a collector

use super::{otlp::*, *};
use crate::{Registrar, labels::Direction};
use http::{Request, StatusCode};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};
use tokio::sync::mpsc;
use tonic::Status;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that tells what it is sent, over no network.
#[derive(Clone)]
struct Collector {
    taken: mpsc::UnboundedSender<ExportRequest>,
    refuses: Arc<AtomicBool>,
}

impl tonic::server::UnaryService<ExportRequest> for Collector {
    type Response = ExportResponse;
    type Future = std::future::Ready<Result<tonic::Response<ExportResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<ExportRequest>) -> Self::Future {
        if self.refuses.load(Relaxed) {
            return std::future::ready(Err(Status::unavailable("full")));
        }
        self.taken.send(request.into_inner()).unwrap();
        std::future::ready(Ok(tonic::Response::new(ExportResponse { partial_success: None })))
    }
}

impl tonic::client::GrpcService<tonic::body::Body> for Collector {
    type ResponseBody = tonic::body::Body;
    type Error = Infallible;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>,
    >;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        assert_eq!(request.uri().path(), EXPORT);
        let collector = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<ExportResponse, ExportRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(collector, request).await)
        })
    }
}

struct Rig {
    registrar: Registrar,
    tracer: Tracer,
    requests: mpsc::UnboundedReceiver<ExportRequest>,
    refuses: Arc<AtomicBool>,
}

fn rig() -> Rig {
    let registrar = Registrar::new(Duration::from_secs(600));
    let metrics = ExportMetrics::new(&registrar);
    let (tracer, spans) = Tracer::new(&metrics);
    let (taken, requests) = mpsc::unbounded_channel();
    let refuses = Arc::new(AtomicBool::new(false));
    let collector = Collector { taken, refuses: refuses.clone() };
    let mut resource = Resource::default();
    resource.set("service.name", "linkerd-proxy");
    resource.extend("app=\"web\"\nzone=\"a\"\n", &['\n']);
    resource.extend("zone=b,odd", &['\n', ',']);
    let origin = http::Uri::from_static("http://collector:4317");
    let mut exporter = Exporter::new(collector, origin, resource, spans, metrics);
    tokio::spawn(async move {
        let (_never, over) = tokio::sync::watch::channel(false);
        exporter.run(over).await;
    });
    Rig { registrar, tracer, requests, refuses }
}

fn request(parent: &str) -> Request<()> {
    Request::post("http://me:secret@web.shop:81/buy?item=1")
        .header("traceparent", parent)
        .header("user-agent", "test")
        .header("content-type", "text/plain")
        .body(())
        .unwrap()
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyKind> {
    attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()
}

fn text(of: &str) -> AnyKind {
    AnyKind::Text(of.to_owned())
}

// proves: TRACE-1 TRACE-2 TRACE-3
#[tokio::test(start_paused = true)]
async fn a_span_goes_to_the_collector_as_child_of_the_one_before() {
    let mut rig = rig();
    let mut sent = request(PARENT);
    let server = rig.tracer.begin(Direction::Inbound, SpanKind::Server, &mut sent).unwrap();
    let client = rig.tracer.begin(Direction::Inbound, SpanKind::Client, &mut sent).unwrap();
    client.end(StatusCode::OK);
    drop(server);
    let taken = rig.requests.recv().await.unwrap();
    let [resource_spans] = &taken.resource_spans[..] else { panic!("{taken:?}") };
    let resource = &resource_spans.resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name"), Some(&text("linkerd-proxy")));
    assert_eq!(attribute(resource, "app"), Some(&text("web")));
    assert_eq!(attribute(resource, "zone"), Some(&text("b")));
    assert!(matches!(attribute(resource, "process.pid"), Some(AnyKind::Int(1..))));

    let [client, server] = &resource_spans.scope_spans[0].spans[..] else { panic!("{taken:?}") };
    assert_eq!((server.kind, client.kind), (2, 3));
    assert_eq!(server.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(client.parent_span_id, server.span_id, "unbroken");
    assert_eq!(client.trace_id, server.trace_id);
    let behind = Context::of(sent.headers()).unwrap();
    assert_eq!(behind.parent[..], client.span_id[..], "the application comes from the client span");
    assert!(client.start_time_unix_nano <= client.end_time_unix_nano);
    assert_eq!(client.name, "/buy");
    for (key, value) in [
        ("direction", text("inbound")),
        ("http.request.method", text("POST")),
        ("url.scheme", text("http")),
        ("url.path", text("/buy")),
        ("url.query", text("item=1")),
        ("url.full", text("http://REDACTED:REDACTED@web.shop:81/buy?item=1")),
        ("network.transport", text("tcp")),
        ("server.address", text("web.shop")),
        ("server.port", AnyKind::Int(81)),
        ("user_agent.original", text("test")),
        ("http.request.header.content-type", text("text/plain")),
        ("http.response.status_code", AnyKind::Int(200)),
    ] {
        assert_eq!(attribute(&client.attributes, key), Some(&value), "{key}");
    }
    assert_eq!(attribute(&client.attributes, "http.request.header.content-length"), None);
    assert_eq!(attribute(&server.attributes, "http.response.status_code"), None, "no answer came");
}

// proves: TRACE-2
#[tokio::test(start_paused = true)]
async fn without_a_sampled_context_nothing_is_made_or_changed() {
    let rig = rig();
    let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    for parent in [unsampled, "nonsense"] {
        let mut sent = request(parent);
        let span = rig.tracer.begin(Direction::Outbound, SpanKind::Client, &mut sent);
        assert!(span.is_none());
        assert_eq!(sent.headers()["traceparent"], parent);
    }
    let mut plain = Request::new(());
    assert!(rig.tracer.begin(Direction::Outbound, SpanKind::Server, &mut plain).is_none());
    assert!(plain.headers().is_empty());
}

// proves: TRACE-3
#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_what_is_too_much_is_dropped_and_counted() {
    let mut rig = rig();
    for _ in 0..1050 {
        drop(rig.tracer.begin(Direction::Outbound, SpanKind::Client, &mut request(PARENT)));
    }
    let taken = rig.requests.recv().await.unwrap();
    let spans = |taken: &ExportRequest| taken.resource_spans[0].scope_spans[0].spans.len();
    assert_eq!(spans(&taken), 1000);
    rig.refuses.store(true, Relaxed);
    drop(rig.tracer.begin(Direction::Outbound, SpanKind::Client, &mut request(PARENT)));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let shown = String::from_utf8(rig.registrar.text()).unwrap();
    for line in [
        "opentelemetry_span_export_streams_total 1",
        "opentelemetry_span_export_requests_total 2",
        "opentelemetry_span_exports_total 1000",
        r#"opentelemetry_span_drops_total{reason="queue_full"} 50"#,
        r#"opentelemetry_span_drops_total{reason="export_failed"} 1"#,
    ] {
        assert!(shown.contains(&format!("{line}\n")), "{line}\n{shown}");
    }
}
