//! # Harness
//!
//! Job: discovery under the test's control, an outbound half in front of it, servers and clients.
//! Must not touch: anything but loopback. Callers: the tests beside it.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use mesh_discover::{Refusal, RefusalCode, State};
use mesh_http::{BalanceParams, Body, Error, ServerParams, Service, detect::HttpVersion};
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::{EndpointMetadata, EndpointSet, TlsTarget},
    outbound::OutboundPolicy,
    profile::Profile,
};
use mesh_net::{connect::ConnectOptions, listen, listen::Liveness};
use mesh_observe::Metrics;
use mesh_outbound::{Config, Discover, Entry, Outbound, Routing, Secure};
use mesh_process::{context::PodContext, drain};
use mesh_stack::io::BoxedIo;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Discovery that says what the test says; everything else is NOT_FOUND.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) profiles: Mutex<HashMap<String, watch::Sender<State<Profile>>>>,
    pub(crate) policies: Mutex<HashMap<String, watch::Sender<State<OutboundPolicy>>>>,
    pub(crate) endpoints: Mutex<HashMap<String, watch::Sender<State<EndpointSet>>>>,
}

fn receiver<T>(
    map: &Mutex<HashMap<String, watch::Sender<State<T>>>>,
    key: String,
) -> watch::Receiver<State<T>> {
    match map.lock().unwrap().get(&key) {
        Some(sender) => sender.subscribe(),
        None => watch::channel(State::Refused(missing())).1,
    }
}

pub(crate) fn missing() -> Refusal {
    Refusal { code: RefusalCode::NotFound, message: "no such thing".into() }
}

impl Discover for Known {
    fn profile(&self, target: &Authority) -> watch::Receiver<State<Profile>> {
        receiver(&self.profiles, target.to_string())
    }

    fn policy(&self, target: &Authority) -> watch::Receiver<State<OutboundPolicy>> {
        receiver(&self.policies, target.to_string())
    }

    fn endpoints(&self, addr: &NameAddr) -> watch::Receiver<State<EndpointSet>> {
        receiver(&self.endpoints, addr.to_string())
    }
}

impl Known {
    /// A Service `name:port` with these endpoints.
    pub(crate) fn service(&self, name: &str, opaque: bool, set: EndpointSet) {
        let (host, _) = name.rsplit_once(':').unwrap();
        let profile = Profile { fqn: Some(host.parse().unwrap()), opaque, ..Profile::default() };
        put(&self.endpoints, name, set);
        put(&self.profiles, name, profile);
    }

    /// Replaces the endpoints of a Service.
    pub(crate) fn set(&self, name: &str, set: EndpointSet) {
        self.endpoints.lock().unwrap()[name].send_replace(State::Known(set));
    }
}

pub(crate) fn put<T>(map: &Mutex<HashMap<String, watch::Sender<State<T>>>>, key: &str, value: T) {
    map.lock().unwrap().insert(key.into(), watch::channel(State::Known(value)).0);
}

pub(crate) fn set(endpoints: &[(SocketAddr, EndpointMetadata)]) -> EndpointSet {
    let known: BTreeMap<_, _> =
        endpoints.iter().map(|(addr, metadata)| (*addr, Arc::new(metadata.clone()))).collect();
    EndpointSet::Known(known)
}

pub(crate) fn plain(addr: SocketAddr) -> EndpointSet {
    set(&[(addr, EndpointMetadata::default())])
}

/// Metadata of a meshed endpoint with a name that [`Trusting`] does not check.
pub(crate) fn tls() -> TlsTarget {
    let name = "web.shop.serviceaccount.identity.linkerd.cluster.local";
    TlsTarget { id: name.parse().unwrap(), server_name: name.parse().unwrap() }
}

/// Stands for TLS where the bytes under it matter: passes them through and agrees to a header.
struct Trusting;

impl Secure for Trusting {
    fn secure(
        &self,
        io: BoxedIo,
        _: &TlsTarget,
        header: bool,
    ) -> BoxFuture<'static, io::Result<(BoxedIo, bool)>> {
        Box::pin(async move { Ok((io, header)) })
    }
}

pub(crate) struct Rig {
    pub(crate) known: Arc<Known>,
    pub(crate) outbound: Outbound,
    pub(crate) metrics: Metrics,
    drain: Option<drain::Signal>,
    watch: drain::Watch,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::secured(Arc::new(Trusting), change)
    }

    pub(crate) fn secured(secure: Arc<dyn Secure>, change: impl FnOnce(&mut Config)) -> Self {
        let known = Arc::new(Known::default());
        let metrics = Metrics::new(Duration::from_secs(600));
        let mut config = Config {
            detect_timeout: Duration::from_secs(10),
            discovery_timeout: Duration::from_secs(10),
            discovery_idle: Duration::from_secs(5),
            max_in_flight: 100_000,
            server: ServerParams::default(),
            balance: BalanceParams::default(),
            tcp_queue_capacity: 10_000,
            tcp_failfast: Duration::from_secs(3),
            hostname_labels: false,
            connect: ConnectOptions {
                source: None,
                timeout: Duration::from_secs(1),
                liveness: Liveness::default(),
            },
            inbound_ips: Default::default(),
            cluster_domain: "cluster.local".parse().unwrap(),
            routing: Routing::Sidecar,
        };
        change(&mut config);
        let outbound = Outbound::new(config, known.clone(), secure, metrics.clone());
        let (signal, watch) = drain::channel();
        Self { known, outbound, metrics, drain: Some(signal), watch }
    }

    /// A listener whose connections go to `target`, as if redirected from there.
    pub(crate) async fn entrance(&self, target: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let target = match target.parse() {
            Ok(socket) => Authority::Socket(socket),
            Err(_) => Authority::Name(target.parse().unwrap()),
        };
        let (outbound, drain) = (self.outbound.clone(), self.watch.clone());
        tokio::spawn(async move {
            loop {
                let (io, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    _ = drain.clone().signaled() => return,
                };
                let (outbound, drain, target) = (outbound.clone(), drain.clone(), target.clone());
                tokio::spawn(async move {
                    let target = outbound.target(&target).await.unwrap();
                    let _ = outbound.proxy(target, io, drain).await;
                });
            }
        });
        addr
    }

    /// A listener of an ingress, whose connections want to go to `original`.
    pub(crate) async fn ingress(&self, original: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (outbound, drain) = (self.outbound.clone(), self.watch.clone());
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (outbound, drain) = (outbound.clone(), drain.clone());
                tokio::spawn(async move { outbound.ingress(io, original, drain).await });
            }
        });
        addr
    }

    /// The explicit listener.
    pub(crate) async fn explicit(&self) -> SocketAddr {
        let any = "127.0.0.1:0".parse().unwrap();
        let bound = listen::bind(&PodContext::default(), any, Default::default()).unwrap();
        let listener = bound.listener().unwrap();
        let addr = bound.local();
        tokio::spawn(self.outbound.clone().run(listener, Entry::Explicit, self.watch.clone()));
        addr
    }

    /// Starts the drain; the answer is whether all connections ended in time.
    pub(crate) async fn drain(mut self, grace: Duration) -> drain::Drained {
        let signal = self.drain.take().unwrap();
        drop(self.watch);
        signal.drain(grace).await
    }
}

/// A free loopback address other than 127.0.0.1, where endpoints may live.
pub(crate) async fn bind() -> (TcpListener, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    let ip = [127, 201, (std::process::id() % 250) as u8, last];
    let listener = TcpListener::bind(SocketAddr::new(ip.into(), 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Answers with the function's response; HTTP version as given.
pub(crate) async fn serve<F, R>(version: HttpVersion, answer: F) -> SocketAddr
where
    F: Fn(Request<Body>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let (listener, addr) = bind().await;
    tokio::spawn(serve_on(listener, version, answer));
    addr
}

pub(crate) async fn serve_on<F, R>(listener: TcpListener, version: HttpVersion, answer: F)
where
    F: Fn(Request<Body>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        let (io, _) = listener.accept().await.unwrap();
        let service = Answer(answer.clone());
        tokio::spawn(async move {
            let never = std::future::pending();
            mesh_http::serve(io, version, &ServerParams::default(), service, never).await
        });
    }
}

#[derive(Clone)]
struct Answer<F>(F);

impl<F, R> Service for Answer<F>
where
    F: Fn(Request<Body>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        Ok((self.0)(request).await)
    }
}

/// Echoes the body, trailers included.
pub(crate) async fn echo(request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(body);
    if let Some(len) = parts.headers.get("content-length") {
        response.headers_mut().insert("content-length", len.clone());
    }
    response
}

/// What a raw server saw, and what it answers to each connection.
pub(crate) async fn raw_server(
    answer: &'static [u8],
) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let (listener, addr) = bind().await;
    let (seen, heads) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Ok(Some(head)) = read_head(&mut io).await {
                    seen.send(head).await.unwrap();
                    io.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (addr, heads)
}

/// Reads up to and with the empty line; `None` at the end of the stream.
pub(crate) async fn read_head(io: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if io.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// Sends text and reads all until the end of the stream.
pub(crate) async fn converse(to: SocketAddr, text: &str) -> String {
    let mut io = TcpStream::connect(to).await.unwrap();
    io.write_all(text.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ =
        tokio::time::timeout(PATIENCE, io.read_to_end(&mut all)).await.expect("an answer in time");
    String::from_utf8_lossy(&all).into_owned()
}

/// One HTTP/1 connection.
pub(crate) async fn h1(to: SocketAddr) -> hyper::client::conn::http1::SendRequest<Body> {
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    send
}

/// One HTTP/2 connection.
pub(crate) async fn h2(to: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(to).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (send, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    send
}

pub(crate) async fn text(
    body: impl http_body_util::BodyExt<Data = Bytes, Error = hyper::Error>,
) -> String {
    String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned()
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
