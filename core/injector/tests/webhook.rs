//! The webhook over HTTPS, with mounted files that change under it.
#![allow(clippy::unwrap_used)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::Client;
use mesh_injector::{args::Config, run};
use mesh_pki::{CaParams, CertifiedKey, create_root, create_server};
use mesh_process::{context::PodContext, drain, ready::Readiness};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const HOST: &str = "linkerd-proxy-injector.linkerd.svc";
const HOUR: Duration = Duration::from_secs(3600);

/// A running webhook whose API server is away: admissions must not depend on it.
struct Running {
    folder: tempfile::TempDir,
    addr: SocketAddr,
    _drain: drain::Signal,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let mut values = mesh_charts::CONTROL_PLANE.defaults().unwrap();
        values["identityTrustDomain"] = "cluster.local".into();
        write("var/run/linkerd/config/values", &mesh_charts::yaml::to_string(&values));
        write("var/run/linkerd/identity/trust-roots/ca-bundle.crt", "anchors-one\n");
        let context = PodContext { root: Some(root.to_owned()), ..PodContext::default() };
        let mut config = Config::new("linkerd", context);
        config.addr = free_port().await;
        let addr = config.addr;
        let (signal, watch) = drain::channel();
        let client = nobody();
        tokio::spawn(async move {
            run(config, client, &prometheus::Registry::new(), &Readiness::new(), watch).await
        });
        Self { folder, addr, _drain: signal }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    /// Mounts a new certificate; gives its root.
    fn certificate(&self) -> Vec<u8> {
        let now = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("test", now, 24 * HOUR)).unwrap();
        let server: CertifiedKey =
            create_server(&root, &[HOST], &[], now, now + 24 * HOUR).unwrap();
        let tls = self.path("var/run/linkerd/tls");
        std::fs::create_dir_all(&tls).unwrap();
        std::fs::write(tls.join("tls.crt"), server.certificate.to_pem()).unwrap();
        std::fs::write(tls.join("tls.key"), server.key.to_pem()).unwrap();
        root.certificate.der.to_vec()
    }

    /// Posts a body; gives status and answer. Fails if the certificate is of another root.
    async fn post(&self, root: &[u8], body: &str) -> std::io::Result<(u16, String)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.to_vec().into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.addr).await?;
        let name = ServerName::try_from(HOST).unwrap();
        let mut io = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        io.write_all(head.as_bytes()).await?;
        io.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer[9..12].parse().unwrap();
        Ok((status, answer.split_once("\r\n\r\n").unwrap().1.to_owned()))
    }

    /// As `post`, until the server is there and has the certificate.
    async fn post_when_up(&self, root: &[u8], body: &str) -> (u16, String) {
        let attempts = async {
            loop {
                match self.post(root, body).await {
                    Ok(answer) => return answer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), attempts).await.unwrap()
    }
}

async fn free_port() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

/// A client of an API server that refuses connections.
fn nobody() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
    Client::try_from(config).unwrap()
}

fn review(version: &str, pod: Value) -> String {
    json!({
        "apiVersion": format!("admission.k8s.io/{version}"),
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "object": pod,
        },
    })
    .to_string()
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "annotations": {"linkerd.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app"}]},
    })
}

/// The Pod as the answer's patch makes it.
fn patched(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)), "{answer}");
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

fn anchors(pod: &Value) -> &str {
    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let name = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS";
    env.iter().find(|e| e["name"] == name).unwrap()["value"].as_str().unwrap()
}

// proves: INJ-7
#[tokio::test(flavor = "multi_thread")]
async fn values_anchors_and_certificate_are_read_anew() {
    let server = Running::start().await;
    let root = server.certificate();
    let (status, answer) = server.post_when_up(&root, &review("v1", pod())).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(anchors(&patched(&answer)), "anchors-one\n");

    let bundle = server.path("var/run/linkerd/identity/trust-roots/ca-bundle.crt");
    std::fs::write(bundle, "anchors-two\n").unwrap();
    let next = server.certificate();
    assert!(server.post(&root, "").await.is_err(), "the old certificate is still served");
    let (_, answer) = server.post(&next, &review("v1", pod())).await.unwrap();
    assert_eq!(anchors(&patched(&answer)), "anchors-two\n");

    // A certificate that cannot be used leaves the one before.
    std::fs::write(server.path("var/run/linkerd/tls/tls.crt"), "broken").unwrap();
    assert_eq!(server.post(&next, &review("v1", pod())).await.unwrap().0, 200);

    // Values that cannot be used refuse the admission with the reason.
    write(&server.path("var/run/linkerd/config/values"), "a: [");
    let (status, answer) = server.post(&next, &review("v1", pod())).await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(false)), "{answer}");
    assert!(answer["response"]["status"]["message"].as_str().unwrap().contains("linkerd-config"));
}

// proves: INJ-7
#[tokio::test(flavor = "multi_thread")]
async fn reviews_are_answered_in_kind_and_anything_else_is_refused() {
    let server = Running::start().await;
    let root = server.certificate();
    for version in ["v1", "v1beta1"] {
        let (_, answer) = server.post_when_up(&root, &review(version, pod())).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["apiVersion"], format!("admission.k8s.io/{version}"));
        assert_eq!(answer["kind"], "AdmissionReview");
    }
    let (_, answer) = server.post(&root, &review("v1", json!({"spec": {}}))).await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
    for bad in ["", "{", "[]", r#"{"apiVersion":"v1"}"#, r#"{"apiVersion":"admission.k8s.io/v1"}"#]
    {
        assert_eq!(server.post(&root, bad).await.unwrap().0, 400, "{bad}");
    }
    let huge = format!("\"{}\"", "x".repeat(10 * 1024 * 1024));
    // The refusal may come before all is sent, which the client may see as a broken pipe.
    assert!(server.post(&root, &huge).await.map_or(true, |(status, _)| status == 413));
    assert_eq!(server.post(&root, &review("v1", pod())).await.unwrap().0, 200);
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
