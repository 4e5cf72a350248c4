//! # A control plane and a child process
//!
//! Job: sign, answer look-ups, start and stop the proxy. Must not touch: anything but loopback.
//! Callers: the tests of the binary, each of which uses its part.
#![allow(dead_code)]

use crate::PATIENCE;
use linkerd2_proxy_api::{
    destination::{
        self as dst,
        destination_server::{Destination, DestinationServer},
    },
    identity::{
        self as id,
        identity_server::{Identity, IdentityServer},
    },
    inbound::{
        self as inb,
        inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
    },
    outbound::{
        self as out,
        outbound_policies_server::{OutboundPolicies, OutboundPoliciesServer},
    },
};
use mesh_meshtls::{
    Credentials, Params,
    control::{ControlAcceptor, ControlConfig},
};
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata, EndpointUpdate},
    outbound::OutboundPolicy,
    profile::Profile,
};
use mesh_pki::{CaParams, Csr, Issuer, Key, LeafPolicy, TrustBundle, create_issuer, create_root};
use mesh_process::drain;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// The name of a control plane that is [`Plane::start_secured`].
pub(crate) const CONTROL_NAME: &str = "plane.linkerd.serviceaccount.identity.linkerd.cluster.local";
pub(crate) const NAME: &str = "web.demo.serviceaccount.identity.linkerd.cluster.local";
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct Answers {
    issuer: Arc<Issuer>,
    signs: watch::Sender<bool>,
    signed: Arc<AtomicU32>,
    app: Arc<watch::Sender<Option<SocketAddr>>>,
    services: Arc<Mutex<HashMap<String, Service>>>,
    sets: Arc<Mutex<HashMap<String, watch::Sender<Vec<Endpoint>>>>>,
}

/// What is told of a name, other than what [`Plane::slow_app`] says.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) endpoint: Endpoint,
    pub(crate) profile: Profile,
    pub(crate) policy: Option<OutboundPolicy>,
}

pub(crate) struct Plane {
    pub(crate) ip: IpAddr,
    addr: SocketAddr,
    anchors: String,
    answers: Answers,
    folder: TempDir,
    /// More variables of its proxies.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Plane {
    /// Listens; signs at once if `signs`, else when told.
    pub(crate) async fn start(signs: bool) -> Self {
        Self::start_on(signs, vec![TcpListener::bind((fresh_ip(), 0)).await.unwrap()])
    }

    /// As `start`, on listeners that all have one address, each in a network of its own.
    pub(crate) fn start_on(signs: bool, listeners: Vec<TcpListener>) -> Self {
        let (answers, anchors) = Answers::of_a_new_root(signs);
        let addr = listeners[0].local_addr().unwrap();
        for listener in listeners {
            tokio::spawn(answers.server().serve_with_incoming(TcpListenerStream::new(listener)));
        }
        Self::of(addr, anchors, answers)
    }

    /// On a port that takes mesh TLS for [`CONTROL_NAME`], as control planes have it.
    pub(crate) async fn start_secured(ip: IpAddr) -> Self {
        let (answers, anchors) = Answers::of_a_new_root(true);
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        // The same port takes calls of those who have no certificate yet.
        let config = ControlConfig { require_client: false, ..ControlConfig::default() };
        let own = answers.credentials(CONTROL_NAME, &anchors);
        let acceptor = ControlAcceptor::new(listener, own, config);
        let server = answers.server();
        tokio::spawn(async move {
            let (_never, drain) = drain::channel();
            server.serve_with_incoming(acceptor.incoming(drain)).await
        });
        Self::of(addr, anchors, answers)
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn of(addr: SocketAddr, anchors: String, answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), b"token").unwrap();
        Self { ip: fresh_ip(), addr, anchors, answers, folder, env: Vec::new() }
    }

    /// The same control plane, for a second proxy.
    pub(crate) fn other(&self) -> Self {
        Self::of(self.addr, self.anchors.clone(), self.answers.clone())
    }

    /// Tells of a name, or of an address, from now on.
    pub(crate) fn service(&self, name: &str, service: Service) {
        self.answers.services.lock().unwrap().insert(name.to_owned(), service);
    }

    /// The endpoints of a name that [`Self::service`] has told of; streams learn of each change.
    pub(crate) fn endpoints(&self, name: &str, endpoints: Vec<Endpoint>) {
        let mut sets = self.answers.sets.lock().unwrap();
        match sets.get(name) {
            Some(set) => drop(set.send_replace(endpoints)),
            None => drop(sets.insert(name.to_owned(), watch::channel(endpoints).0)),
        }
    }

    pub(crate) fn sign(&self) {
        self.answers.signs.send_replace(true);
    }

    pub(crate) fn refuse_to_sign(&self) {
        self.answers.signs.send_replace(false);
    }

    pub(crate) fn signed(&self) -> u32 {
        self.answers.signed.load(Ordering::SeqCst)
    }

    pub(crate) async fn until_leaf_is_kept(&self) {
        let path = self.folder.path().join("leaf.pem");
        let wait = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    /// The proxy's command, on free ports of an address of its own.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
        let folder = self.folder.path().to_str().unwrap();
        command
            .env_clear()
            .env("MESH_POD_IP", self.ip.to_string())
            .env("MESH_INTERCEPTION", "none");
        for (name, value) in [
            ("INBOUND_LISTEN_ADDR", "0.0.0.0:0".to_owned()),
            ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:0".to_owned()),
            ("ADMIN_LISTEN_ADDR", "0.0.0.0:0".to_owned()),
            ("DESTINATION_SVC_ADDR", self.addr.to_string()),
            ("POLICY_SVC_ADDR", self.addr.to_string()),
            ("IDENTITY_SVC_ADDR", self.addr.to_string()),
            ("POLICY_WORKLOAD", "demo:web".to_owned()),
            ("IDENTITY_DIR", folder.to_owned()),
            ("IDENTITY_TRUST_ANCHORS", self.anchors.clone()),
            ("IDENTITY_TOKEN_FILE", format!("{folder}/token")),
            ("IDENTITY_LOCAL_NAME", NAME.to_owned()),
            ("IDENTITY_MIN_REFRESH", "100ms".to_owned()),
            ("SHUTDOWN_ENDPOINT_ENABLED", "true".to_owned()),
            ("LOG", "info".to_owned()),
        ] {
            command.env(format!("LINKERD2_PROXY_{name}"), value);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// An application behind `echo.demo:80` whose answer waits for the test.
    pub(crate) async fn slow_app(&self) -> SlowApp {
        let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
        self.answers.app.send_replace(Some(listener.local_addr().unwrap()));
        let app = SlowApp { began: Arc::default(), finish: Arc::default() };
        let (began, finish) = (app.began.clone(), app.finish.clone());
        tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = io.read(&mut head).await.unwrap();
            began.notify_one();
            finish.notified().await;
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        });
        app
    }
}

pub(crate) struct SlowApp {
    began: Arc<Notify>,
    finish: Arc<Notify>,
}

impl SlowApp {
    pub(crate) async fn began(&self) {
        tokio::time::timeout(PATIENCE, self.began.notified()).await.unwrap();
    }

    pub(crate) fn finish(&self) {
        self.finish.notify_one();
    }
}

/// A running proxy; killed if a test forgets it.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Proxy {
    /// Starts it and learns its addresses from its log.
    pub(crate) async fn start(plane: &Plane) -> Self {
        let mut child = plane.command().stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (lines, mut line) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for text in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                // The reader leaves once it knows the addresses; the pipe is still drained.
                let _ = lines.send(text);
            }
        });
        let listening = async {
            loop {
                let text: String = line.recv().await.expect("it ended early");
                if text.contains("Listening") {
                    return text;
                }
            }
        };
        let text = tokio::time::timeout(PATIENCE, listening).await.unwrap();
        let field = |name: &str| {
            let rest = text.split_once(&format!("{name}=")).unwrap().1.trim_start_matches('[');
            let end = rest.find([' ', ']', ',']).unwrap_or(rest.len());
            rest[..end].parse().unwrap()
        };
        Self {
            inbound: field("inbound"),
            outbound: field("outbound"),
            admin: field("admin"),
            child,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path}")).await
    }

    /// Status and body.
    pub(crate) async fn ask(&self, what: &str) -> (u16, String) {
        let ask = async {
            let socket = TcpSocket::new_v4().unwrap();
            // A peer that is not the host: the proxy's own address.
            socket.bind(SocketAddr::new(self.admin.ip(), 0)).unwrap();
            let mut io: TcpStream = socket.connect(self.admin).await.unwrap();
            let head = format!("{what} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n");
            io.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            io.read_to_string(&mut answer).await.unwrap();
            let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
            (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
        };
        tokio::time::timeout(PATIENCE, ask).await.unwrap()
    }

    pub(crate) async fn until(&self, path: &str, status: u16) {
        let wait = async {
            while self.get(path).await.0 != status {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub(crate) async fn end(self) -> Option<i32> {
        self.signal();
        self.ended().await
    }

    pub(crate) async fn ended(mut self) -> Option<i32> {
        let wait = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it does not end")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    [127, 213, (std::process::id() % 250) as u8, last].into()
}

// === the services ===

impl Answers {
    fn of_a_new_root(signs: bool) -> (Self, String) {
        let from = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("root", from, 1000 * HOUR)).unwrap();
        let made = create_issuer(&root, &CaParams::issuer("issuer", from, 1000 * HOUR)).unwrap();
        let (certificate, key) = (made.certificate.to_pem(), made.key.to_pem());
        let issuer = Issuer::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let answers = Self {
            issuer: Arc::new(issuer),
            signs: watch::channel(signs).0,
            signed: Arc::default(),
            app: Arc::new(watch::channel(None).0),
            services: Arc::default(),
            sets: Arc::default(),
        };
        (answers, root.certificate.to_pem())
    }

    fn server(&self) -> tonic::transport::server::Router {
        tonic::transport::Server::builder()
            .add_service(IdentityServer::new(self.clone()))
            .add_service(DestinationServer::new(self.clone()))
            .add_service(InboundServerPoliciesServer::new(self.clone()))
            .add_service(OutboundPoliciesServer::new(self.clone()))
    }

    /// Certified by this control plane's own root.
    fn credentials(&self, name: &str, anchors: &str) -> Credentials {
        let credentials = Credentials::new(Params {
            local: name.parse().unwrap(),
            server_name: name.parse().unwrap(),
            anchors: TrustBundle::from_pem(anchors.as_bytes()).unwrap(),
            key: Key::generate().unwrap(),
            csr: None,
        })
        .unwrap();
        let now = SystemTime::now();
        let csr = Csr::from_der(&credentials.csr()).unwrap().check(credentials.local()).unwrap();
        let policy = LeafPolicy { lifetime: HOUR, clock_skew: Duration::from_secs(1) };
        let leaf = self.issuer.issue(&csr, policy, now).unwrap();
        let chain: Vec<_> = leaf.intermediates.iter().map(|d| d.to_vec()).collect();
        credentials.install(&leaf.leaf, &chain, now).unwrap();
        credentials
    }

    /// What is told of `name:port`.
    fn about(&self, path: &str) -> Option<Service> {
        let (name, _) = path.rsplit_once(':')?;
        self.services.lock().unwrap().get(name).cloned()
    }
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// A stream with one message that stays open.
fn lasting<T: Send + 'static>(message: Option<T>) -> Response<Stream<T>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        if let Some(message) = message {
            let _ = sender.send(Ok(message)).await;
        }
        sender.closed().await;
    });
    Response::new(ReceiverStream::new(receiver))
}

/// A stream that tells a set of endpoints and its changes.
fn changing(mut set: watch::Receiver<Vec<Endpoint>>) -> Response<Stream<dst::Update>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut told: Vec<Endpoint> = Vec::new();
        loop {
            let now = set.borrow_and_update().clone();
            let is_in = |set: &[Endpoint], addr| set.iter().any(|e| e.addr == addr);
            let new: Vec<_> = now.iter().filter(|e| !is_in(&told, e.addr)).cloned().collect();
            let gone = told.iter().map(|e| e.addr).filter(|addr| !is_in(&now, *addr));
            let gone: Vec<_> = gone.collect();
            let add = (!new.is_empty()).then_some(EndpointUpdate::Add(new));
            let remove = (!gone.is_empty()).then_some(EndpointUpdate::Remove(gone));
            for update in add.into_iter().chain(remove) {
                let update = mesh_wire::destination::update_to_proto(&update, &Arc::default());
                if sender.send(Ok(update)).await.is_err() {
                    return;
                }
            }
            told = now;
            tokio::select! {
                Ok(()) = set.changed() => {}
                () = sender.closed() => return,
                else => return,
            }
        }
    });
    Response::new(ReceiverStream::new(receiver))
}

#[tonic::async_trait]
impl Identity for Answers {
    async fn certify(
        &self,
        request: Request<id::CertifyRequest>,
    ) -> Result<Response<id::CertifyResponse>, Status> {
        if !*self.signs.borrow() {
            return Err(Status::unavailable("not yet"));
        }
        let request = request.into_inner();
        assert_eq!((request.identity.as_str(), request.token.as_slice()), (NAME, &b"token"[..]));
        let csr = Csr::from_der(&request.certificate_signing_request).unwrap();
        let csr = csr.check(&NAME.parse().unwrap()).unwrap();
        let policy = LeafPolicy { lifetime: HOUR, clock_skew: Duration::from_secs(1) };
        let leaf = self.issuer.issue(&csr, policy, SystemTime::now()).unwrap();
        self.signed.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(id::CertifyResponse {
            leaf_certificate: leaf.leaf.to_vec(),
            intermediate_certificates: leaf.intermediates.iter().map(|d| d.to_vec()).collect(),
            valid_until: Some(leaf.not_after.into()),
        }))
    }
}

#[tonic::async_trait]
impl Destination for Answers {
    type GetStream = Stream<dst::Update>;
    type GetProfileStream = Stream<dst::DestinationProfile>;

    async fn get(
        &self,
        request: Request<dst::GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let path = &request.get_ref().path;
        let name = path.rsplit_once(':').map_or("", |(name, _)| name);
        if let Some(set) = self.sets.lock().unwrap().get(name) {
            return Ok(changing(set.subscribe()));
        }
        let endpoint = match self.about(path) {
            Some(service) => service.endpoint,
            None => {
                let addr = self.app.borrow().ok_or_else(|| Status::not_found("no app"))?;
                Endpoint { addr, metadata: Arc::new(EndpointMetadata::default()) }
            }
        };
        let update = EndpointUpdate::Add(vec![endpoint]);
        let update = mesh_wire::destination::update_to_proto(&update, &Arc::default());
        Ok(lasting(Some(update)))
    }

    async fn get_profile(
        &self,
        request: Request<dst::GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        if let Some(service) = self.about(&request.get_ref().path) {
            return Ok(lasting(Some(mesh_wire::profile::to_proto(&service.profile))));
        }
        if self.app.borrow().is_none() {
            return Err(Status::not_found("no such Service"));
        }
        let (name, _) = request.get_ref().path.rsplit_once(':').unwrap();
        let profile = Profile { fqn: Some(name.parse().unwrap()), ..Profile::default() };
        Ok(lasting(Some(mesh_wire::profile::to_proto(&profile))))
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Answers {
    type WatchPortStream = Stream<inb::Server>;

    async fn get_port(&self, _: Request<inb::PortSpec>) -> Result<Response<inb::Server>, Status> {
        Err(Status::unimplemented("unused"))
    }

    async fn watch_port(
        &self,
        _: Request<inb::PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        Ok(lasting(None))
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Answers {
    type WatchStream = Stream<out::OutboundPolicy>;

    async fn get(
        &self,
        _: Request<out::TrafficSpec>,
    ) -> Result<Response<out::OutboundPolicy>, Status> {
        Err(Status::unimplemented("unused"))
    }

    async fn watch(
        &self,
        request: Request<out::TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = match request.into_inner().target {
            Some(out::traffic_spec::Target::Authority(name)) => self.about(&name),
            Some(out::traffic_spec::Target::Addr(addr)) => {
                SocketAddr::try_from(addr).ok().and_then(|addr| self.about(&addr.to_string()))
            }
            None => None,
        };
        match service.and_then(|service| service.policy) {
            Some(policy) => Ok(lasting(Some(mesh_wire::outbound::to_proto(&policy)))),
            None => Err(Status::not_found("no policy")),
        }
    }
}

/// Serves HTTP, whichever version comes first.
pub(crate) async fn serve(ip: IpAddr, service: impl mesh_http::Service) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            let service = service.clone();
            tokio::spawn(async move {
                let (found, io) = mesh_http::detect::detect(io, PATIENCE).await.unwrap();
                let version = match found {
                    mesh_http::detect::Detected::Http(version) => version,
                    _ => mesh_http::detect::HttpVersion::Http1,
                };
                let params = mesh_http::ServerParams::default();
                let never = std::future::pending();
                // A client may leave at any time.
                let _ = mesh_http::serve(io, version, &params, service, never).await;
            });
        }
    });
    addr
}
