//! # Harness
//!
//! Job: a Pod with an application behind the inbound half, over real sockets; the original destination is
//! the address that the client reached.
//! Must not touch: anything but loopback. Callers: the tests beside it.

use http::{HeaderValue, Request, Response};
use mesh_http::{
    Body, Error, ServerParams, Service,
    detect::{Detected, detect},
};
use mesh_inbound::{Config, Defaults, Inbound, Policies, PolicySource, gateway::NoGateway};
use mesh_meshtls::{Credentials, Params, TlsTarget};
use mesh_model::{
    inbound::{DETECT_TIMEOUT, DefaultPolicy, ServerPolicy},
    transport::TransportHeader,
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

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const POD: &str = "web.demo.serviceaccount.identity.linkerd.cluster.local";
pub(crate) const PEER: &str = "peer.demo.serviceaccount.identity.linkerd.cluster.local";

pub(crate) struct Policy(pub(crate) watch::Sender<Arc<ServerPolicy>>);

impl PolicySource for Policy {
    fn watch(&self, _: u16, _: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>> {
        self.0.subscribe()
    }
}

/// A Pod with an application on the same port as the proxy takes connections for, at another address
/// (without redirect rules both cannot be at one).
pub(crate) struct Pod {
    pub(crate) app: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) policy: Arc<Policy>,
    pub(crate) metrics: Metrics,
    pub(crate) peer: Credentials,
    pub(crate) inbound: Inbound<NoGateway>,
    pub(crate) drain: drain::Watch,
    pub(crate) _signal: drain::Signal,
}

pub(crate) fn credentials(issuer: &Issuer, anchors: &TrustBundle, name: &str) -> Credentials {
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

pub(crate) fn default(policy: DefaultPolicy) -> ServerPolicy {
    policy.policy(&["192.0.2.0/24".parse().unwrap()], Duration::from_secs(2))
}

pub(crate) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    [127, 212, (std::process::id() % 250) as u8, last].into()
}

impl Pod {
    pub(crate) async fn new(policy: ServerPolicy) -> Self {
        Self::with(policy, |_, _| {}).await
    }

    /// With a change of the inbound half's settings.
    pub(crate) async fn with(
        policy: ServerPolicy,
        change: impl FnOnce(&mut Config, &Metrics),
    ) -> Self {
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
        change(&mut config, &metrics);
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

    pub(crate) fn set(&self, policy: ServerPolicy) {
        self.policy.0.send_replace(Arc::new(policy));
    }

    /// A client's end of a connection that was redirected on its way to the application.
    pub(crate) async fn redirected(&self) -> TcpStream {
        let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (io, peer) = listener.accept().await.unwrap();
        let accepted = listen::Accepted { io, peer, local: self.app };
        tokio::spawn(self.inbound.clone().serve(accepted, self.drain.clone()));
        client
    }

    /// The same under mesh TLS.
    pub(crate) async fn meshed(
        &self,
    ) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<> {
        let to = TlsTarget { id: POD.parse().unwrap(), server_name: POD.parse().unwrap() };
        let io = self.redirected().await;
        mesh_meshtls::connect(io, &self.peer, &to, false).await.unwrap().io
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8(self.metrics.text()).unwrap()
    }

    pub(crate) async fn counted(&self, series: &str) {
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
pub(crate) async fn app(ip: IpAddr) -> SocketAddr {
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
pub(crate) struct Tell;

impl Service for Tell {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let client = request.headers().get("l5d-client-id").map(HeaderValue::as_bytes);
        let client = String::from_utf8_lossy(client.unwrap_or(b"nobody")).into_owned();
        let agent = request.headers().get("user-agent").and_then(|v| v.to_str().ok());
        let agent = agent.map(|agent| format!(" as {agent}")).unwrap_or_default();
        Ok(Response::new(Body::full(format!("{:?} from {client}{agent}", request.version()))))
    }
}

pub(crate) async fn converse(
    mut io: impl AsyncReadExt + AsyncWriteExt + Unpin,
    said: &str,
) -> String {
    io.write_all(said.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = io.read_to_end(&mut answer);
    // A refused client may see a reset.
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("no end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) const GET: &str =
    "GET / HTTP/1.1\r\nhost: web\r\nl5d-client-id: spoofed\r\nconnection: close\r\n\r\n";

/// The answer of a connection to the proxy's own port under this header.
pub(crate) async fn direct(pod: &Pod, header: TransportHeader, said: &str) -> String {
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
