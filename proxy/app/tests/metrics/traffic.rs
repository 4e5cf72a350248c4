//! # Traffic through two proxies
//!
//! Job: an application behind a server's proxy, a client's proxy before it, a collector of spans; all kinds
//! of traffic between them. Must not touch: anything but loopback. Callers: the test of metrics.

use crate::{
    PATIENCE,
    plane::{NAME, Plane, Proxy, Service, serve},
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use mesh_http::Body;
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata, ProtocolHint, TlsTarget},
    profile::Profile,
};
use prost::Message;
use std::{net::SocketAddr, num::NonZeroU16, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
};

pub(crate) const TRACE: [u8; 16] = *b"a trace of tests";
pub(crate) const PARENT_SPAN: [u8; 8] = *b"a client";
pub(crate) struct Pair {
    /// Holds the files that its proxies read.
    _plane: Plane,
    client: Proxy,
    server: Proxy,
    pub(crate) collector: Collector,
    told: watch::Receiver<String>,
}

/// A response as it came.
pub(crate) struct Scraped {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn traceparent(span: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("00-{}-{}-01", hex(&TRACE), hex(span))
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let collector = Collector::start().await;
        let mut plane = Plane::start(true).await;
        plane.env = vec![
            ("LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR", collector.addr.clone()),
            ("LINKERD2_PROXY_TRACE_SERVICE_NAME", "linkerd-proxy".to_owned()),
        ];
        let mut behind = plane.other();
        behind.env = plane.env.clone();
        let (client, server) = (Proxy::start(&plane).await, Proxy::start(&behind).await);
        client.until("/ready", 200).await;
        server.until("/ready", 200).await;
        // The application listens where the server's proxy finds it: on its own address.
        let (http, told) = application(behind.ip).await;
        let bytes = echo(behind.ip).await;
        let proxy = NonZeroU16::new(server.inbound.port()).unwrap();
        let meshed = |addr, hint| {
            let labels = [("zone_locality", "local"), ("service", "web"), ("namespace", "demo")];
            let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned()));
            let tls = TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
            let metadata = EndpointMetadata {
                tls: Some(tls),
                hint,
                opaque_transport: Some(proxy),
                labels: Arc::new(labels.into_iter().collect()),
                ..EndpointMetadata::default()
            };
            Endpoint { addr, metadata: Arc::new(metadata) }
        };
        let named = |name: &str| Profile { fqn: Some(name.parse().unwrap()), ..Profile::default() };
        plane.service(
            "web.demo.svc.cluster.local",
            Service {
                endpoint: meshed(http, ProtocolHint::Http2),
                profile: named("web.demo.svc.cluster.local"),
                policy: None,
            },
        );
        plane.service(
            "bytes.demo.svc.cluster.local",
            Service {
                endpoint: meshed(bytes, ProtocolHint::Opaque),
                profile: Profile { opaque: true, ..named("bytes.demo.svc.cluster.local") },
                policy: None,
            },
        );
        Self { _plane: plane, client, server, collector, told }
    }

    /// Requests, calls, bytes, and requests that fail. Returns how many requests go to the application through
    /// both proxies.
    pub(crate) async fn all_kinds_of_traffic(&self) -> u64 {
        assert!(self.ask("GET", "web.demo", "/", "").await.starts_with("HTTP/1.1 200"));
        let named = tokio::time::timeout(PATIENCE, self.until_on_a_route()).await.unwrap();
        assert!(self.ask("GET", "web.demo", "/broken", "").await.starts_with("HTTP/1.1 500"));
        let grpc = "content-type: application/grpc\r\nte: trailers\r\n";
        assert!(self.ask("POST", "web.demo", "/s/m", grpc).await.starts_with("HTTP/1.1 200"));
        // Outside the zone of Services: refused by the client's proxy.
        assert!(self.ask("GET", "no.such.example", "/", "").await.starts_with("HTTP/1.1 502"));
        self.tunnel().await;
        3 + named
    }

    /// Requests until one counts under its profile on the server's side, where profiles are known by full names
    /// and no request waits for one. Returns how many it took.
    async fn until_on_a_route(&self) -> u64 {
        let mut sent = 0;
        while !self.server.get("/metrics").await.1.contains("\nroute_response_total{") {
            let whole = self.ask("POST", "web.demo.svc.cluster.local", "/", "").await;
            assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
            sent += 1;
        }
        sent
    }

    /// Sends a request with a context; what the application was told of it.
    pub(crate) async fn traced_request(&self) -> String {
        let header = format!("traceparent: {}\r\n", traceparent(&PARENT_SPAN));
        let answer = self.ask("GET", "web.demo", "/traced", &header).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut told = self.told.clone();
        let told = told.wait_for(|told| !told.is_empty());
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap().clone()
    }

    /// Once the numbers stand still.
    pub(crate) async fn scrape(&self) -> (String, String) {
        let settled = |text: &str| {
            let judged = text.lines().filter(|l| l.starts_with("response_total{")).count();
            let open = text.lines().any(|l| {
                l.starts_with("tcp_close_total{direction=") && l.contains("errno=\"\"} 1")
            });
            judged >= 3 && open
        };
        let wait = async {
            loop {
                let client = self.client.get("/metrics").await.1;
                let server = self.server.get("/metrics").await.1;
                if settled(&client) && settled(&server) {
                    return (client, server);
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    pub(crate) async fn scraped(&self, accept_encoding: Option<&str>) -> Scraped {
        let socket = TcpSocket::new_v4().unwrap();
        let mut io = socket.connect(self.client.admin).await.unwrap();
        let accept = accept_encoding.map(|e| format!("accept-encoding: {e}\r\n"));
        let accept = accept.unwrap_or_default();
        let head =
            format!("GET /metrics HTTP/1.1\r\nhost: proxy\r\n{accept}connection: close\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer)).await.unwrap().unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let body = answer.split_off(end + 4);
        Scraped { head: String::from_utf8(answer).unwrap().to_lowercase(), body }
    }

    /// Ends both proxies; the collector stays.
    pub(crate) async fn end(self) -> Collector {
        self.client.end().await;
        self.server.end().await;
        self.collector
    }

    async fn ask(&self, method: &str, host: &str, path: &str, headers: &str) -> String {
        let mut io = TcpStream::connect(self.client.outbound).await.unwrap();
        let head = format!(
            "{method} http://{host}{path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n"
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Bytes there and back through CONNECT.
    async fn tunnel(&self) {
        let mut io = TcpStream::connect(self.client.outbound).await.unwrap();
        let head = "CONNECT bytes.demo:80 HTTP/1.1\r\nhost: bytes.demo:80\r\n\r\n";
        io.write_all(head.as_bytes()).await.unwrap();
        let exchange = async {
            let mut answer = [0; 12];
            io.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            while !head_ends(&mut io).await {}
            io.write_all(b"hello").await.unwrap();
            let mut back = [0; 5];
            io.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"hello");
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    }
}

/// Reads on to the empty line.
async fn head_ends(io: &mut TcpStream) -> bool {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(io.read_u8().await.unwrap());
    }
    line == b"\r\n"
}

/// Answers requests; tells the context of those to `/traced`.
async fn application(ip: std::net::IpAddr) -> (SocketAddr, watch::Receiver<String>) {
    let (tell, told) = watch::channel(String::new());
    let addr = serve(ip, App(tell)).await;
    (addr, told)
}

#[derive(Clone)]
struct App(watch::Sender<String>);

impl mesh_http::Service for App {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, mesh_http::Error> {
        if request.uri().path() == "/traced" {
            let told = request.headers()["traceparent"].to_str().unwrap();
            self.0.send_replace(told.to_owned());
        }
        let grpc = request.headers().contains_key("te");
        let broken = request.uri().path() == "/broken";
        let mut response = Response::new(Body::full("hello"));
        if grpc {
            let status = HeaderValue::from_static("14");
            let trailers =
                HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status)]);
            *response.body_mut() = with_trailers(Bytes::new(), trailers);
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        }
        if broken {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok(response)
    }
}

fn with_trailers(data: Bytes, trailers: HeaderMap) -> Body {
    let body = Full::new(data).map_err(|never: std::convert::Infallible| match never {});
    Body::boxed(body.with_trailers(async move { Some(Ok(trailers)) }))
}

async fn echo(ip: std::net::IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = io.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

// === the collector ===

pub(crate) struct Collector {
    addr: String,
    spans: tokio::sync::Mutex<mpsc::UnboundedReceiver<SeenSpan>>,
}

/// What matters of a span.
#[derive(Clone, Debug)]
pub(crate) struct SeenSpan {
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) direction: String,
}

impl Collector {
    async fn start() -> Self {
        let (tell, spans) = mpsc::unbounded_channel();
        let addr = serve([127, 0, 0, 1].into(), Collecting(tell)).await;
        Self { addr: addr.to_string(), spans: tokio::sync::Mutex::new(spans) }
    }

    /// The next spans, of whichever proxy.
    pub(crate) async fn spans(&self, count: usize) -> Vec<SeenSpan> {
        let mut spans = self.spans.lock().await;
        let mut seen = Vec::new();
        while seen.len() < count {
            let next = tokio::time::timeout(PATIENCE, spans.recv()).await;
            seen.push(next.expect("spans come").expect("the collector lives"));
        }
        seen
    }
}

#[derive(Clone)]
struct Collecting(mpsc::UnboundedSender<SeenSpan>);

impl mesh_http::Service for Collecting {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, mesh_http::Error> {
        let export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        assert_eq!(request.uri().path(), export);
        let message = request.into_body().collect().await?.to_bytes();
        let export = otlp::Export::decode(&message[5..]).unwrap();
        for span in export.resources.into_iter().flat_map(|r| r.scopes).flat_map(|s| s.spans) {
            let direction = span.attributes.iter().find(|a| a.key == "direction");
            let direction = direction.and_then(|a| a.value.clone()).unwrap_or_default().text;
            let otlp::Span { trace, id, parent, name, kind, .. } = span;
            let _ = self.0.send(SeenSpan { trace, id, parent, name, kind, direction });
        }
        // An empty message, not compressed.
        let mut empty = BytesMut::new();
        empty.put_u8(0);
        empty.put_u32(0);
        let ok = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        let mut response = Response::new(with_trailers(empty.freeze(), HeaderMap::from_iter([ok])));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// The parts of OTLP that this collector reads.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Export {
        #[prost(message, repeated, tag = "1")]
        pub(super) resources: Vec<Resource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "2")]
        pub(super) scopes: Vec<Scope>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Scope {
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(super) name: String,
        #[prost(int32, tag = "6")]
        pub(super) kind: i32,
        #[prost(message, repeated, tag = "9")]
        pub(super) attributes: Vec<Attribute>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Attribute {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Value {
        #[prost(string, tag = "1")]
        pub(super) text: String,
    }
}
