//! # Harness
//!
//! Job: two clusters under one root, in one process. Must not touch: anything but loopback.
//! Callers: the tests beside it.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mesh_discover::{Refusal, RefusalCode, State};
use mesh_gateway::{Gateway, GatewayMetrics, RememberingDiscovery, RememberingPolicies, View};
use mesh_http::{
    BalanceParams, Body, Error, ServerParams, Service,
    detect::{Detected, HttpVersion, detect},
    upgrade::{self, ClientHalf},
};
use mesh_inbound::{Config as InboundConfig, Defaults, Inbound, Policies, PolicySource};
use mesh_meshtls::{Credentials, Params};
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::{EndpointMetadata, EndpointSet, KeepAlive, ProtocolHint, TlsTarget},
    inbound::{DETECT_TIMEOUT, DefaultPolicy, ServerPolicy},
    outbound::OutboundPolicy,
    profile::Profile,
};
use mesh_net::{connect::ConnectOptions, listen, listen::Liveness, orig_dst};
use mesh_observe::Metrics;
use mesh_outbound::{Config as OutboundConfig, Discover, Outbound, Routing};
use mesh_pki::{CaParams, Csr, Issuer, Key, LeafPolicy, TrustBundle, create_issuer, create_root};
use mesh_process::{context::PodContext, drain};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Handle,
    sync::watch,
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const CLIENT: &str = "client.demo.serviceaccount.identity.linkerd.west";
pub(crate) const GATEWAY: &str =
    "linkerd-gateway.linkerd-multicluster.serviceaccount.identity.linkerd.east";
pub(crate) const POD: &str = "echo.demo.serviceaccount.identity.linkerd.east";
/// The mirror as west knows it, and the Service behind it.
pub(crate) const MIRROR: &str = "echo-east.demo.svc.west.example:8080";
pub(crate) const SERVICE: &str = "echo.demo.svc.east.example:8080";

pub(crate) struct Ca {
    pub(crate) issuer: Issuer,
    pub(crate) anchors: TrustBundle,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let from = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("root", from, 1000 * HOUR)).unwrap();
        let made = create_issuer(&root, &CaParams::issuer("issuer", from, 1000 * HOUR)).unwrap();
        let (certificate, key) = (made.certificate.to_pem(), made.key.to_pem());
        Self {
            issuer: Issuer::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap(),
            anchors: TrustBundle::from_certificates([root.certificate]).unwrap(),
        }
    }

    pub(crate) fn workload(&self, name: &str) -> Credentials {
        let credentials = self.bare(name);
        self.certify(&credentials, HOUR);
        credentials
    }

    pub(crate) fn bare(&self, name: &str) -> Credentials {
        Credentials::new(Params {
            local: name.parse().unwrap(),
            server_name: name.parse().unwrap(),
            anchors: self.anchors.clone(),
            key: Key::generate().unwrap(),
            csr: None,
        })
        .unwrap()
    }

    pub(crate) fn certify(&self, credentials: &Credentials, lifetime: Duration) {
        let now = SystemTime::now();
        let csr = Csr::from_der(&credentials.csr()).unwrap().check(credentials.local()).unwrap();
        let policy = LeafPolicy { lifetime, clock_skew: Duration::from_secs(1) };
        let issued = self.issuer.issue(&csr, policy, now).unwrap();
        let chain: Vec<Vec<u8>> = issued.intermediates.iter().map(|d| d.to_vec()).collect();
        credentials.install(&issued.leaf, &chain, now).unwrap();
    }
}

type Senders<T> = Mutex<HashMap<String, watch::Sender<State<T>>>>;

/// Discovery that says what the test says. What it was never told of is refused as not exported, and has
/// no policy; while it is `silent`, it answers nothing.
#[derive(Default)]
pub(crate) struct Known {
    profiles: Senders<Profile>,
    endpoints: Senders<EndpointSet>,
    policies: Senders<OutboundPolicy>,
    silent: std::sync::atomic::AtomicBool,
}

impl Known {
    pub(crate) fn service(&self, name: &str, set: EndpointSet) {
        let (host, _) = name.rsplit_once(':').unwrap();
        let profile = Profile { fqn: Some(host.parse().unwrap()), ..Profile::default() };
        say(&self.endpoints, name, State::Known(set));
        say(&self.profiles, name, State::Known(profile));
    }

    pub(crate) fn opaque(&self, name: &str, set: EndpointSet) {
        self.service(name, set);
        let (host, _) = name.rsplit_once(':').unwrap();
        let profile =
            Profile { fqn: Some(host.parse().unwrap()), opaque: true, ..Profile::default() };
        say(&self.profiles, name, State::Known(profile));
    }

    pub(crate) fn profile(&self, name: &str, profile: Profile) {
        say(&self.profiles, name, State::Known(profile));
    }

    pub(crate) fn policy(&self, name: &str, policy: OutboundPolicy) {
        say(&self.policies, name, State::Known(policy));
    }

    pub(crate) fn refuse(&self, name: &str, code: RefusalCode) {
        let no = Refusal { code, message: "not exported".into() };
        say(&self.profiles, name, State::Refused(no.clone()));
        say(&self.endpoints, name, State::Refused(no));
    }

    pub(crate) fn refuse_policy(&self, name: &str, code: RefusalCode) {
        let no = Refusal { code, message: "not exported".into() };
        say(&self.policies, name, State::Refused(no));
    }

    /// Whether anybody has asked for the name's profile, and been refused.
    pub(crate) fn asked(&self, name: &str) -> bool {
        self.profiles.lock().unwrap().contains_key(name)
    }

    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    fn receiver<T>(
        &self,
        map: &Senders<T>,
        key: String,
        code: RefusalCode,
    ) -> watch::Receiver<State<T>> {
        let silent = self.silent.load(Ordering::SeqCst);
        let mut map = map.lock().unwrap();
        let start = || {
            if silent {
                return watch::channel(State::Pending).0;
            }
            let message = "not exported".into();
            watch::channel(State::Refused(Refusal { code, message })).0
        };
        map.entry(key).or_insert_with(start).subscribe()
    }
}

fn say<T>(map: &Senders<T>, key: &str, state: State<T>) {
    let mut map = map.lock().unwrap();
    let sender = map.entry(key.into()).or_insert_with(|| watch::channel(State::Pending).0);
    sender.send_replace(state);
}

impl Discover for Known {
    fn profile(&self, target: &Authority) -> watch::Receiver<State<Profile>> {
        self.receiver(&self.profiles, target.to_string(), RefusalCode::FailedPrecondition)
    }

    fn policy(&self, target: &Authority) -> watch::Receiver<State<OutboundPolicy>> {
        self.receiver(&self.policies, target.to_string(), RefusalCode::NotFound)
    }

    fn endpoints(&self, addr: &NameAddr) -> watch::Receiver<State<EndpointSet>> {
        self.receiver(&self.endpoints, addr.to_string(), RefusalCode::FailedPrecondition)
    }
}

/// Policies that the test sets; every port starts with the default.
pub(crate) struct KnownPolicies {
    ports: Mutex<HashMap<u16, watch::Sender<Arc<ServerPolicy>>>>,
}

impl KnownPolicies {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { ports: Mutex::default() })
    }

    pub(crate) fn set(&self, port: u16, policy: ServerPolicy) {
        let mut ports = self.ports.lock().unwrap();
        let policy = Arc::new(policy);
        ports.entry(port).or_insert_with(|| watch::channel(policy.clone()).0).send_replace(policy);
    }
}

impl PolicySource for KnownPolicies {
    fn watch(&self, port: u16, start: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>> {
        let mut ports = self.ports.lock().unwrap();
        ports.entry(port).or_insert_with(|| watch::channel(start).0).subscribe()
    }
}

/// A policy that lets everybody in, or only these identities.
pub(crate) fn policy(default: DefaultPolicy) -> ServerPolicy {
    default.policy(&["192.0.2.0/24".parse().unwrap()], DETECT_TIMEOUT)
}

pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) gateway: SocketAddr,
    pub(crate) gateway_metrics: Metrics,
    pub(crate) gateway_credentials: Credentials,
    pub(crate) gateway_policies: Arc<KnownPolicies>,
    pub(crate) pod: SocketAddr,
    pub(crate) pod_credentials: Credentials,
    pub(crate) app: SocketAddr,
    pub(crate) east: Arc<Known>,
    pub(crate) west: Arc<Known>,
    pub(crate) west_outbound: Outbound,
    pub(crate) west_credentials: Credentials,
    pub(crate) view: View,
    /// Of the gateways that are started from now on.
    pub(crate) patience: Duration,
    watch: drain::Watch,
    _drain: drain::Signal,
}

impl World {
    pub(crate) async fn new() -> Self {
        let ca = Ca::new();
        let (signal, drain) = drain::channel();
        let pod_ip = fresh_ip();
        let app = app(pod_ip).await;
        let pod_credentials = ca.workload(POD);
        let pod_policies = KnownPolicies::new();
        let pod = inbound::<mesh_inbound::gateway::NoGateway>(
            pod_ip,
            &pod_credentials,
            pod_policies.clone(),
            Metrics::new(HOUR),
            None,
            &drain,
        );
        let east = Arc::new(Known::default());
        let view = View::default();
        let west = Arc::new(Known::default());
        let west_credentials = ca.workload(CLIENT);
        let west_outbound =
            outbound(Routing::Sidecar, west.clone(), &west_credentials, Metrics::new(HOUR));
        let gateway_credentials = ca.workload(GATEWAY);
        let mut world = Self {
            gateway: pod,
            gateway_metrics: Metrics::new(HOUR),
            gateway_credentials,
            gateway_policies: KnownPolicies::new(),
            pod,
            pod_credentials,
            app,
            east,
            west,
            west_outbound,
            west_credentials,
            view,
            patience: Duration::from_millis(20),
            watch: drain,
            _drain: signal,
            ca,
        };
        world.gateway = world.start_gateway(world.view.clone(), world.gateway_metrics.clone());
        world.east.service(SERVICE, world.pod_endpoint());
        let mirror = world.gateway_endpoint(SERVICE, ProtocolHint::Http2);
        world.west.service(MIRROR, mirror);
        world
    }

    /// A gateway that starts with this view; its address.
    pub(crate) fn start_gateway(&self, view: View, metrics: Metrics) -> SocketAddr {
        let discover = Arc::new(RememberingDiscovery::new(self.east.clone(), view.clone()));
        let policies =
            RememberingPolicies::new(self.gateway_policies.clone(), view, Handle::current());
        let credentials = &self.gateway_credentials;
        let sending = outbound(Routing::Gateway, discover, credentials, metrics.clone());
        let config = mesh_gateway::Config {
            suffixes: vec!["svc.east.example.".parse().unwrap()],
            id: GATEWAY.parse().unwrap(),
            patience: self.patience,
        };
        let counts = GatewayMetrics::new(metrics.registrar());
        let gateway = Gateway::new(config, sending, counts);
        inbound(fresh_ip(), credentials, Arc::new(policies), metrics, Some(gateway), &self.watch)
    }

    /// The Pod behind its proxy, as east's discovery tells of it.
    pub(crate) fn pod_endpoint(&self) -> EndpointSet {
        let metadata = EndpointMetadata {
            tls: Some(target(POD)),
            hint: ProtocolHint::Http2,
            opaque_transport: NonZeroU16::new(self.pod.port()),
            ..EndpointMetadata::default()
        };
        set(self.app, metadata)
    }

    /// The gateway, as west's discovery tells of a mirror of `name`.
    pub(crate) fn gateway_endpoint(&self, name: &str, hint: ProtocolHint) -> EndpointSet {
        let metadata = EndpointMetadata {
            tls: Some(target(GATEWAY)),
            hint,
            authority_override: Some(name.parse().unwrap()),
            ..EndpointMetadata::default()
        };
        set(self.gateway, metadata)
    }

    /// Sends a request as a client in west does.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let name: NameAddr = MIRROR.parse().unwrap();
        let found = self.west_outbound.target(&Authority::Name(name)).await.unwrap();
        self.west_outbound.http(found).call(request).await
    }

    /// A connection as a client in west opens it.
    pub(crate) async fn connect(&self, mirror: &str) -> tokio::io::DuplexStream {
        let name: NameAddr = mirror.parse().unwrap();
        let found = self.west_outbound.target(&Authority::Name(name)).await.unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        let (outbound, drain) = (self.west_outbound.clone(), self.watch.clone());
        tokio::spawn(async move {
            let _ = outbound.proxy(found, far, drain).await;
        });
        near
    }

    pub(crate) fn metrics(&self) -> String {
        text(&self.gateway_metrics)
    }
}

pub(crate) fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.text()).unwrap()
}

pub(crate) fn target(id: &str) -> TlsTarget {
    TlsTarget { id: id.parse().unwrap(), server_name: id.parse().unwrap() }
}

pub(crate) fn set(addr: SocketAddr, metadata: EndpointMetadata) -> EndpointSet {
    EndpointSet::Known(BTreeMap::from([(addr, Arc::new(metadata))]))
}

/// A loopback address that no other test uses, and not 127.0.0.1, which is nobody's peer.
pub(crate) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    [127, 211, (std::process::id() % 250) as u8, last].into()
}

fn inbound<G: mesh_inbound::gateway::Gateway>(
    ip: IpAddr,
    credentials: &Credentials,
    source: Arc<dyn PolicySource>,
    metrics: Metrics,
    gateway: Option<G>,
    drain: &drain::Watch,
) -> SocketAddr {
    let addr = SocketAddr::new(ip, 0);
    let bound = listen::bind(&PodContext::default(), addr, Default::default()).unwrap();
    let local = bound.local();
    let port = NonZeroU16::new(local.port()).unwrap();
    let mut config = InboundConfig::new(port, credentials.server_name().clone());
    config.orig_dst = orig_dst::Source::Local;
    config.detect_timeout = Duration::from_secs(3);
    let defaults = Defaults { detect_timeout: Duration::from_secs(3), ..Defaults::default() };
    let policies = Policies::new(defaults, source, [port.get()], HOUR);
    let inbound = Inbound::new(config, policies, credentials.clone(), metrics, gateway);
    tokio::spawn(inbound.run(bound.listener().unwrap(), drain.clone()));
    local
}

fn outbound(
    routing: Routing,
    discover: Arc<dyn Discover>,
    credentials: &Credentials,
    metrics: Metrics,
) -> Outbound {
    let mut balance =
        BalanceParams { failfast: Duration::from_secs(1), ..BalanceParams::default() };
    balance.client.mesh_keep_alive = KeepAlive {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(3),
        while_idle: true,
    };
    let config = OutboundConfig {
        tcp_queue_capacity: 100,
        tcp_failfast: Duration::from_secs(3),
        hostname_labels: false,
        detect_timeout: Duration::from_secs(10),
        discovery_timeout: Duration::from_secs(1),
        discovery_idle: Duration::from_secs(5),
        max_in_flight: 100_000,
        server: ServerParams::default(),
        balance,
        connect: ConnectOptions {
            source: Some(fresh_ip()),
            timeout: Duration::from_secs(1),
            liveness: Liveness::default(),
        },
        inbound_ips: Default::default(),
        cluster_domain: "example".parse().unwrap(),
        routing,
    };
    Outbound::new(config, discover, Arc::new(credentials.clone()), metrics)
}

// === the application ===

/// An application that echoes: HTTP of both versions, upgrades, and bytes. It answers with the status that
/// a request's `x-status` names, and not at all if there is `x-silent`.
async fn app(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok((detected, mut io)) = detect(io, PATIENCE).await else { return };
                if let Detected::Http(version) = detected {
                    let never = std::future::pending();
                    let _ =
                        mesh_http::serve(io, version, &ServerParams::default(), Echo, never).await;
                    return;
                }
                // Bytes: what came, and a last word after the client has finished.
                let (mut read, mut write) = tokio::io::split(&mut io);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"bye").await;
                let _ = write.shutdown().await;
            });
        }
    });
    addr
}

#[derive(Clone)]
struct Echo;

impl Service for Echo {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        if request.headers().contains_key("x-silent") {
            return std::future::pending().await;
        }
        Ok(echo(request))
    }
}

fn echo(request: Request<Body>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).cloned();
    let told = [
        ("x-host", header("host")),
        ("x-client", header("l5d-client-id")),
        ("x-forwarded", header("forwarded")),
        ("x-orig-proto", header("l5d-orig-proto")),
    ];
    let status = header("x-status").and_then(|v| StatusCode::from_bytes(v.as_bytes()).ok());
    let version = format!("{:?}", request.version());
    let authority = request.uri().authority().map(ToString::to_string);
    let mut response = match ClientHalf::take(&request) {
        Some(half) => {
            tokio::spawn(async move {
                let io = upgrade::finish(half).await.unwrap();
                let (mut read, mut write) = tokio::io::split(io);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            let connect = request.method() == http::Method::CONNECT;
            let mut response = Response::new(Body::empty());
            if !connect {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert("upgrade", "echo".parse().unwrap());
                response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            }
            response
        }
        None => Response::new(request.into_body()),
    };
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    let fields = response.headers_mut();
    for (name, value) in told {
        if let Some(value) = value {
            fields.insert(name, value);
        }
    }
    fields.insert("x-version", version.parse().unwrap());
    if let Some(authority) = authority {
        fields.insert("x-authority", authority.parse().unwrap());
    }
    response
}

// === reading ===

pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn whole(response: Response<Body>) -> Whole {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
    let trailers = body.trailers().cloned();
    Whole { status: head.status, headers: head.headers, body: body.to_bytes(), trailers }
}

/// Reads until the end of the stream, or as long as it stays open and `until` does not hold.
pub(crate) async fn read_until(
    io: &mut (impl AsyncReadExt + Unpin),
    until: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut seen = Vec::new();
    let read = async {
        while !until(&seen) {
            if io.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("no end in time");
    seen
}

/// Waits until `holds`, looking again after each turn of the runtime.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

pub(crate) fn h1(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "echo-east.demo:8080")
}

pub(crate) fn h2(method: &str, path: &str) -> http::request::Builder {
    let uri = format!("http://echo-east.demo:8080{path}");
    Request::builder().method(method).uri(uri).version(http::Version::HTTP_2)
}

/// Serves as a marker that version names are what they should be.
pub(crate) const VERSIONS: [HttpVersion; 2] = [HttpVersion::Http1, HttpVersion::Http2];
