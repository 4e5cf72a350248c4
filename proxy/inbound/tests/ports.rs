//! # Connections to application ports
//!
//! Real sockets; the original destination is the address that the client reached.

#![allow(clippy::unwrap_used, missing_docs)]

use http::{HeaderValue, Request, Response};
use mesh_http::{
    Body, Error, ServerParams, Service,
    detect::{Detected, detect},
};
use mesh_inbound::{Config, Defaults, Inbound, Policies, PolicySource, gateway::NoGateway};
use mesh_meshtls::{Credentials, Params, TlsTarget};
use mesh_model::{
    inbound::{DETECT_TIMEOUT, DefaultPolicy, InboundRoute, ServerPolicy, ServerProtocol},
    transport::{SessionProtocol, TransportHeader},
};
use mesh_net::{listen, orig_dst};
use mesh_observe::Metrics;
use mesh_pki::{CaParams, Csr, Issuer, Key, LeafPolicy, TrustBundle, create_root};
use mesh_process::{context::PodContext, drain};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);
const POD: &str = "web.demo.serviceaccount.identity.linkerd.cluster.local";
const PEER: &str = "peer.demo.serviceaccount.identity.linkerd.cluster.local";

struct Policy(watch::Sender<Arc<ServerPolicy>>);

impl PolicySource for Policy {
    fn watch(&self, _: u16, _: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>> {
        self.0.subscribe()
    }
}

/// A Pod with an application on the same port as the proxy takes connections for, at another address
/// (without redirect rules both cannot be at one).
struct Pod {
    app: SocketAddr,
    proxy: SocketAddr,
    policy: Arc<Policy>,
    metrics: Metrics,
    peer: Credentials,
    inbound: Inbound<NoGateway>,
    drain: drain::Watch,
    _signal: drain::Signal,
}

fn credentials(issuer: &Issuer, anchors: &TrustBundle, name: &str) -> Credentials {
    let credentials = Credentials::new(Params {
        local: name.parse().unwrap(),
        server_name: name.parse().unwrap(),
        anchors: anchors.clone(),
        key: Key::generate().unwrap(),
        csr: None,
    })
    .unwrap();
    let now = SystemTime::now();
    let csr = Csr::from_der(&credentials.csr()).unwrap().check(credentials.local()).unwrap();
    let policy = LeafPolicy { lifetime: HOUR, clock_skew: Duration::ZERO };
    let leaf = issuer.issue(&csr, policy, now).unwrap();
    let chain: Vec<_> = leaf.intermediates.iter().map(|d| d.to_vec()).collect();
    credentials.install(&leaf.leaf, &chain, now).unwrap();
    credentials
}

fn default(policy: DefaultPolicy) -> ServerPolicy {
    policy.policy(&["192.0.2.0/24".parse().unwrap()], Duration::from_secs(2))
}

fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    [127, 212, (std::process::id() % 250) as u8, last].into()
}

impl Pod {
    async fn new(policy: ServerPolicy) -> Self {
        let from = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("root", from, 1000 * HOUR)).unwrap();
        let made = mesh_pki::create_issuer(&root, &CaParams::issuer("i", from, 1000 * HOUR));
        let made = made.unwrap();
        let (certificate, key) = (made.certificate.to_pem(), made.key.to_pem());
        let issuer = Issuer::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let anchors = TrustBundle::from_certificates([root.certificate]).unwrap();
        let policy = Arc::new(Policy(watch::channel(Arc::new(policy)).0));
        let metrics = Metrics::new(HOUR);
        let app = app(fresh_ip()).await;
        let bound = listen::bind(
            &PodContext::default(),
            SocketAddr::new(app.ip(), 0),
            listen::ListenOptions::default(),
        )
        .unwrap();
        let mut config =
            Config::new(NonZeroU16::new(bound.local().port()).unwrap(), POD.parse().unwrap());
        config.orig_dst = orig_dst::Source::Local;
        config.detect_timeout = Duration::from_millis(500);
        let defaults = Defaults { detect_timeout: DETECT_TIMEOUT, ..Defaults::default() };
        let policies = Policies::new(defaults, policy.clone(), [], HOUR);
        let own = credentials(&issuer, &anchors, POD);
        let inbound = Inbound::new(config, policies, own, metrics.clone(), None);
        let (signal, drain) = drain::channel();
        tokio::spawn(inbound.clone().run(bound.listener().unwrap(), drain.clone()));
        Self {
            app,
            proxy: bound.local(),
            policy,
            metrics,
            peer: credentials(&issuer, &anchors, PEER),
            inbound,
            drain,
            _signal: signal,
        }
    }

    fn set(&self, policy: ServerPolicy) {
        self.policy.0.send_replace(Arc::new(policy));
    }

    /// A client's end of a connection that was redirected on its way to the application.
    async fn redirected(&self) -> TcpStream {
        let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (io, peer) = listener.accept().await.unwrap();
        let accepted = listen::Accepted { io, peer, local: self.app };
        tokio::spawn(self.inbound.clone().serve(accepted, self.drain.clone()));
        client
    }

    /// The same under mesh TLS.
    async fn meshed(&self) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<> {
        let to = TlsTarget { id: POD.parse().unwrap(), server_name: POD.parse().unwrap() };
        let io = self.redirected().await;
        mesh_meshtls::connect(io, &self.peer, &to, false).await.unwrap().io
    }

    fn shown(&self) -> String {
        String::from_utf8(mesh_process::metrics::encode(self.metrics.registry())).unwrap()
    }

    async fn counted(&self, series: &str) {
        let wait = async {
            while !self.shown().contains(series) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{series}\n{}", self.shown());
    }
}

/// Tells over HTTP who called; answers bytes with themselves.
async fn app(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok((detected, mut io)) = detect(io, PATIENCE).await else { return };
                if let Detected::Http(version) = detected {
                    let params = ServerParams::default();
                    let never = std::future::pending();
                    let _ = mesh_http::serve(io, version, &params, Tell, never).await;
                    return;
                }
                let (mut read, mut write) = tokio::io::split(&mut io);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    addr
}

#[derive(Clone)]
struct Tell;

impl Service for Tell {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let client = request.headers().get("l5d-client-id").map(HeaderValue::as_bytes);
        let client = String::from_utf8_lossy(client.unwrap_or(b"nobody")).into_owned();
        Ok(Response::new(Body::full(format!("{:?} from {client}", request.version()))))
    }
}

async fn converse(mut io: impl AsyncReadExt + AsyncWriteExt + Unpin, said: &str) -> String {
    io.write_all(said.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = io.read_to_end(&mut answer);
    // A refused client may see a reset.
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("no end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

const GET: &str =
    "GET / HTTP/1.1\r\nhost: web\r\nl5d-client-id: spoofed\r\nconnection: close\r\n\r\n";

// proves: INB-2 INB-5
#[tokio::test]
async fn plaintext_and_mesh_tls_reach_the_application_and_say_who_calls() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.ends_with("HTTP/1.1 from nobody"), "{answer}");
    let answer = converse(pod.meshed().await, GET).await;
    assert!(answer.ends_with(&format!("HTTP/1.1 from {PEER}")), "{answer}");
    pod.counted(r#"inbound_tcp_detect_http_results_total{result="http/1"} 2"#).await;
    pod.counted(&format!(r#"tls="true",client_id="{PEER}""#)).await;
    pod.counted(r#"tls="no_identity",no_tls_reason="no_tls_from_remote""#).await;
}

// proves: INB-5
#[tokio::test]
async fn http1_carried_over_http2_arrives_as_it_was() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let io = hyper_util::rt::TokioIo::new(pod.meshed().await);
    let exec = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(exec, io).await.unwrap();
    tokio::spawn(connection);
    for (orig, version) in
        [(Some("HTTP/1.1"), "HTTP/1.1"), (Some("HTTP/1.0"), "HTTP/1.0"), (None, "HTTP/2.0")]
    {
        let mut request = Request::get("http://web/").body(Body::empty()).unwrap();
        if let Some(orig) = orig {
            request.headers_mut().insert("l5d-orig-proto", HeaderValue::from_static(orig));
        }
        let response = sender.send_request(request).await.unwrap();
        let marked = response.headers().get("l5d-orig-proto").is_some();
        assert_eq!(marked, orig.is_some());
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(body, format!("{version} from {PEER}"));
    }
}

// proves: INB-2
#[tokio::test]
async fn other_tls_and_other_bytes_pass_through() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let mut io = pod.redirected().await;
    io.write_all(b"SSH-2.0-something\r\n").await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(converse(io, "").await, "SSH-2.0-something\r\n");
    pod.counted(r#"inbound_tcp_detect_http_results_total{result="not_http"} 1"#).await;

    // A ClientHello for somebody else comes back from the echo as it was, so the handshake fails there.
    let to = TlsTarget { id: PEER.parse().unwrap(), server_name: PEER.parse().unwrap() };
    let io = pod.redirected().await;
    assert!(mesh_meshtls::connect(io, &pod.peer, &to, false).await.is_err());
    pod.counted(&format!(r#"tls="opaque",sni="{PEER}""#)).await;
}

// proves: INB-2
#[tokio::test]
async fn an_opaque_port_is_not_looked_at() {
    let policy = DefaultPolicy::AllUnauthenticated.opaque_policy(&[]);
    let pod = Pod::new(policy).await;
    let mut io = pod.redirected().await;
    // Shorter than anything that could be told apart; a client that waits would hang.
    io.write_all(b"hi").await.unwrap();
    pod.counted(r#"no_tls_reason="port_skipped""#).await;
    assert!(!pod.shown().contains("inbound_tcp_detect_http_results_total"));
}

// proves: INB-2
#[tokio::test]
async fn silence_ends_a_connection_that_must_be_looked_at() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    assert_eq!(converse(pod.redirected().await, "").await, "");
    pod.counted(r#"inbound_tcp_errors_total{error="tls detection timeout","#).await;
}

// proves: INB-4
#[tokio::test]
async fn every_request_obeys_the_newest_policy() {
    let pod = Pod::new(default(DefaultPolicy::AllAuthenticated)).await;
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("l5d-proxy-error"), "a stranger is told no reason: {answer}");
    pod.counted("inbound_http_authz_deny_total{").await;

    // One connection sees both policies.
    let mut io = pod.redirected().await;
    let ask = GET.replace("connection: close\r\n", "");
    io.write_all(ask.as_bytes()).await.unwrap();
    let mut seen = [0; 12];
    io.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 403");
    pod.set(default(DefaultPolicy::AllUnauthenticated));
    let answer = converse(io, GET).await;
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");

    let mut no_routes = default(DefaultPolicy::AllUnauthenticated);
    no_routes.protocol = ServerProtocol::Http1(Arc::new([]));
    pod.set(no_routes);
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    pod.counted("inbound_http_route_not_found_total{").await;

    let mut http_only = default(DefaultPolicy::AllUnauthenticated);
    http_only.protocol = ServerProtocol::Http1(Arc::new([InboundRoute::fallback()]));
    pod.set(http_only);
    let answer = converse(pod.meshed().await, "SSH-2.0-something\r\n").await;
    assert_eq!(answer, "", "bytes have no business on an HTTP port");
    pod.counted("inbound_tcp_authz_deny_total{").await;
}

/// The answer of a connection to the proxy's own port under this header.
async fn direct(pod: &Pod, header: TransportHeader, said: &str) -> String {
    let to = TlsTarget { id: POD.parse().unwrap(), server_name: POD.parse().unwrap() };
    let io = TcpStream::connect(pod.proxy).await.unwrap();
    let mut io = mesh_meshtls::connect(io, &pod.peer, &to, true).await.unwrap().io;
    io.write_all(&mesh_wire::transport_header::encode(&header)).await.unwrap();
    if said.starts_with("bytes") {
        io.write_all(said.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        return converse(io, "").await;
    }
    converse(io, said).await
}

// proves: INB-6
#[tokio::test]
async fn a_nameless_header_leads_to_the_port_that_it_names() {
    let pod = Pod::new(default(DefaultPolicy::AllAuthenticated)).await;
    let to = |port: u16, protocol| TransportHeader {
        port: NonZeroU16::new(port).unwrap(),
        name: None,
        protocol,
    };
    let http1 = Some(SessionProtocol::Http1);
    let answer = direct(&pod, to(pod.app.port(), http1), GET).await;
    assert!(answer.ends_with(&format!("HTTP/1.1 from {PEER}")), "{answer}");
    let answer = direct(&pod, to(pod.app.port(), None), "bytes for a server").await;
    assert_eq!(answer, "bytes for a server");
    let answer = direct(&pod, to(pod.proxy.port(), http1), GET).await;
    assert_eq!(answer, "", "the proxy does not call itself");
    pod.counted(r#"inbound_tcp_errors_total{error="unexpected","#).await;

    let named = TransportHeader { name: Some("web.demo".parse().unwrap()), ..to(80, http1) };
    assert_eq!(direct(&pod, named, GET).await, "");
    pod.counted(r#"inbound_direct_refusals_total{reason="no_gateway"} 1"#).await;
    pod.counted(r#"inbound_tcp_errors_total{error="gateway domain invalid","#).await;
}

// proves: INB-8
#[tokio::test]
async fn an_application_that_refuses_is_a_bad_gateway() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let header = TransportHeader {
        port: NonZeroU16::new(1).unwrap(),
        name: None,
        protocol: Some(SessionProtocol::Http1),
    };
    let answer = direct(&pod, header, GET).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("l5d-proxy-connection: close"), "{answer}");
    pod.counted(r#"inbound_http_errors_total{error="i/o","#).await;
}
