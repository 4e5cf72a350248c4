//! # A cluster for identity
//!
//! Job: an API server, accounts, a root CA, a mounted folder and the service on top.
//! May touch: the sandbox, temporary folders. Callers: the tests of the Certify API.

use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Event, Namespace, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use linkerd2_proxy_api::identity::{
    CertifyRequest, CertifyResponse, identity_client::IdentityClient,
};
use mesh_identity::{Config, Parts, args::TABLE, serve_on};
use mesh_meshtls::{Credentials, Params};
use mesh_pki::{
    CaParams, Certificate, CertifiedKey, Key, TrustBundle, create_csr, create_issuer, create_root,
};
use mesh_process::{
    context::PodContext,
    drain,
    ready::Readiness,
    settings::{Reader, Setting},
};
use mesh_sandbox::api::{ApiConfig, ApiServer};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "linkerd-identity-issuer";
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn name_of(account: &str, namespace: &str) -> String {
    format!("{account}.{namespace}.serviceaccount.identity.linkerd.cluster.local")
}

pub(crate) fn csr_for(name: &str, key: &Key) -> Vec<u8> {
    create_csr(&name.parse().unwrap(), key).unwrap()
}

pub(crate) fn request(id: &str, token: &str, csr: &[u8]) -> CertifyRequest {
    CertifyRequest {
        identity: id.into(),
        token: token.into(),
        certificate_signing_request: csr.into(),
    }
}

/// Asks every 20 ms, for at most 20 s.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < SOON, "it never came about: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A root and what it signs.
pub(crate) struct Ca {
    root: CertifiedKey,
    pub(crate) anchors: TrustBundle,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let from = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("root", from, 100 * HOUR)).unwrap();
        let anchors = TrustBundle::from_certificates([root.certificate.clone()]).unwrap();
        Self { root, anchors }
    }

    pub(crate) fn issuer(&self, name: &str, lifetime: Duration) -> CertifiedKey {
        let params = CaParams::issuer(name, SystemTime::now() - Duration::from_secs(1), lifetime);
        create_issuer(&self.root, &params).unwrap()
    }

    /// Credentials without a certificate.
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
}

pub(crate) struct World {
    folder: TempDir,
    api: ApiServer,
    client: Client,
    pub(crate) ca: Ca,
}

impl World {
    /// An API server with namespaces `linkerd` and `shop`, and accounts `web` and `db`.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bind = "127.0.0.1:0".parse().unwrap();
        let config = ApiConfig::new("east", folder.path().join("api"), bind);
        let api = ApiServer::start(config).await.unwrap();
        let client =
            mesh_cluster::client::from_kubeconfig_text(&api.admin_kubeconfig()).await.unwrap();
        let ca = Ca::new();
        let roots = folder.path().join("pod/var/run/linkerd/identity/trust-roots");
        fs::create_dir_all(&roots).unwrap();
        fs::write(roots.join("ca-bundle.crt"), ca.anchors.to_pem()).unwrap();
        let post = PostParams::default();
        for name in ["linkerd", "shop"] {
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            let namespace = Namespace { metadata, ..Namespace::default() };
            Api::all(client.clone()).create(&post, &namespace).await.unwrap();
        }
        for name in ["web", "db"] {
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            Api::namespaced(client.clone(), "shop").create(&post, &account).await.unwrap();
        }
        Self { folder, api, client, ca }
    }

    /// A token of `shop/<account>` for the mesh.
    pub(crate) async fn token(&self, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "shop");
        let spec = TokenRequestSpec {
            audiences: vec!["identity.l5d.io".into()],
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        };
        let ask = TokenRequest { spec, ..TokenRequest::default() };
        let post = PostParams::default();
        let answer = accounts.create_token_request(account, &post, &ask).await.unwrap();
        answer.status.unwrap().token
    }

    /// A client with an account's own rights.
    pub(crate) async fn client_of(&self, namespace: &str, account: &str) -> Client {
        let token = self.api.issue_token(namespace, account).unwrap();
        let kubeconfig = self.api.token_kubeconfig(account, &token);
        mesh_cluster::client::from_kubeconfig_text(&kubeconfig).await.unwrap()
    }

    pub(crate) async fn put_secret(&self, issuer: &CertifiedKey) {
        let bytes = |text: String| ByteString(text.into_bytes());
        let data = BTreeMap::from([
            ("crt.pem".to_owned(), bytes(issuer.certificate.to_pem())),
            ("key.pem".to_owned(), bytes(issuer.key.to_pem())),
        ]);
        let metadata = ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), "linkerd");
        let params = PatchParams::apply("test").force();
        api.patch(SECRET, &params, &Patch::Apply(&secret)).await.unwrap();
    }

    /// Lays the folder out as kubelet does: a new version, then the link `..data` swapped by a rename.
    pub(crate) fn mount(&self, issuer: &CertifiedKey, version: u32) {
        let folder = self.folder.path().join("pod/var/run/linkerd/identity/issuer");
        let target = folder.join(format!("..v{version}"));
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("crt.pem"), issuer.certificate.to_pem()).unwrap();
        fs::write(target.join("key.pem"), issuer.key.to_pem()).unwrap();
        let link = folder.join("..data_tmp");
        symlink(Path::new(&format!("..v{version}")), &link).unwrap();
        fs::rename(link, folder.join("..data")).unwrap();
    }

    /// The first Event with a reason.
    pub(crate) async fn event(&self, namespace: &str, reason: &str) -> Event {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let start = Instant::now();
        loop {
            let events = api.list(&ListParams::default()).await.unwrap();
            let found = events.items.into_iter().find(|e| e.reason.as_deref() == Some(reason));
            if let Some(event) = found {
                assert_eq!(
                    event.source.as_ref().unwrap().component.as_deref(),
                    Some("linkerd-identity")
                );
                return event;
            }
            assert!(start.elapsed() < SOON, "no event {reason}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the service.
    pub(crate) async fn serve(&self) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let readiness = Readiness::new();
        let (stop, watch) = drain::channel();
        let parts = self.parts(self.client.clone(), &readiness, watch);
        tokio::spawn(async move { serve_on(listener, config(), parts).await.unwrap() });
        let channel =
            Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        Service { addr, readiness, client: IdentityClient::new(channel), _stop: stop }
    }

    /// Runs the service to its end.
    pub(crate) async fn run_with(&self, client: Client) -> Result<(), mesh_identity::Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_stop, watch) = drain::channel();
        let parts = self.parts(client, &Readiness::new(), watch);
        timeout(SOON, serve_on(listener, config(), parts)).await.unwrap()
    }

    fn parts(&self, client: Client, readiness: &Readiness, drain: drain::Watch) -> Parts {
        let root = Some(self.folder.path().join("pod"));
        Parts {
            client,
            pod: PodContext { root, ..PodContext::default() },
            readiness: readiness.clone(),
            registry: prometheus::Registry::new(),
            drain,
            plaintext_from_own: false,
        }
    }
}

/// A running service.
pub(crate) struct Service {
    pub(crate) addr: SocketAddr,
    readiness: Readiness,
    client: IdentityClient<Channel>,
    _stop: drain::Signal,
}

impl Service {
    /// Waits for an issuer.
    pub(crate) async fn ready(&self) {
        eventually("an issuer is loaded", async || self.readiness.is_ready()).await;
    }

    pub(crate) async fn certify(
        &self,
        id: &str,
        token: &str,
        csr: &[u8],
    ) -> Result<CertifyResponse, Status> {
        let answer = self.client.clone().certify(request(id, token, csr)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Who signs for `shop/<account>` now.
    pub(crate) async fn issuer_of(&self, account: &str, world: &World) -> String {
        let id = name_of(account, "shop");
        let csr = csr_for(&id, &Key::generate().unwrap());
        let answer = self.certify(&id, &world.token(account).await, &csr).await.unwrap();
        Certificate::from_der(&answer.leaf_certificate).unwrap().issuer_name
    }
}

/// A gRPC client over an open connection.
pub(crate) async fn grpc_over(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> IdentityClient<Channel> {
    let slot = Arc::new(Mutex::new(Some(io)));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let io = slot.lock().unwrap().take();
        async move {
            let io = io.ok_or_else(|| io::Error::other("one connection only"))?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(io))
        }
    });
    let endpoint = Endpoint::from_static("http://identity");
    IdentityClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn config() -> Config {
    let args = [
        "-controller-namespace=linkerd",
        "-identity-trust-domain=cluster.local",
        "-identity-scheme=linkerd.io/tls",
        "-identity-issuance-lifetime=60s",
        "-identity-clock-skew-allowance=20s",
    ]
    .map(OsString::from);
    let tables: [&[Setting]; 1] = [TABLE];
    let mut reader = Reader::from_flags(&tables, &args);
    let config = Config::read(&mut reader).unwrap().unwrap();
    reader.finish().unwrap();
    config
}
