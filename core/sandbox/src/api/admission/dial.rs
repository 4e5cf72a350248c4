//! # Calling a webhook
//!
//! Job: one POST over TLS to the URL or the Service that a webhook names.
//! May touch: sockets; the store, reading. Must not touch: what the answer means.
//! Callers: `admission`.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    api::{
        object::{list, text},
        shared::Shared,
    },
    store::Key,
};

const MAX_ANSWER: usize = 3 * 1024 * 1024;

/// Posts a review and returns the answer; the error is one sentence.
pub(super) async fn post(
    shared: &Shared,
    config: &Value,
    review: &Value,
    seconds: u64,
) -> Result<Value, String> {
    let answer = async {
        let target = Target::of(config, seconds)?;
        let failed = |why: String| format!("Post {:?}: {why}", target.url());
        let exchange = exchange(shared, &target, config, review);
        let (status, body) = timeout(Duration::from_secs(seconds), exchange)
            .await
            .unwrap_or_else(|_| Err("context deadline exceeded".into()))
            .map_err(failed)?;
        match status {
            status if status.is_success() => serde_json::from_slice(&body)
                .map_err(|e| format!("couldn't get version/kind; json parse error: {e}")),
            status if status.is_server_error() => Err(
                "an error on the server (\"unknown\") has prevented the request from succeeding"
                    .into(),
            ),
            status => Err(format!(
                "the server responded with the status code {} but did not return more information",
                status.as_u16()
            )),
        }
    };
    answer.await.map_err(|why: String| format!("failed to call webhook: {why}"))
}

async fn exchange(
    shared: &Shared,
    target: &Target,
    config: &Value,
    review: &Value,
) -> Result<(StatusCode, Bytes), String> {
    let addr = target.addr(shared, &config["service"]).await?;
    let tcp = TcpStream::connect(addr).await.map_err(|e| match e.kind() {
        ErrorKind::ConnectionRefused => format!("dial tcp {addr}: connect: connection refused"),
        _ => format!("dial tcp {addr}: {e}"),
    })?;
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
    let tls = TlsConnector::from(Arc::new(tls(config)?));
    let stream = tls.connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(&target.path)
        .header(header::HOST, &target.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    drop(connection);
    Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
}

struct Target {
    /// Name for TLS and the Host header.
    host: String,
    port: u16,
    path: String,
    /// The port is one of a Service of that name.
    service: bool,
}

impl Target {
    fn of(config: &Value, seconds: u64) -> Result<Self, String> {
        let timed = |path: &str| format!("{path}?timeout={seconds}s");
        if let Some(url) = config["url"].as_str() {
            let uri: Uri =
                url.parse().map_err(|e| format!("the URL {url:?} does not parse: {e}"))?;
            let host = uri.host().ok_or_else(|| format!("the URL {url:?} has no host"))?;
            return Ok(Self {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: uri.port_u16().unwrap_or(443),
                path: timed(uri.path()),
                service: false,
            });
        }
        let service = &config["service"];
        let path = text(service, &["path"]);
        Ok(Self {
            host: format!("{}.{}.svc", text(service, &["name"]), text(service, &["namespace"])),
            port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            path: timed(if path.is_empty() { "/" } else { path }),
            service: true,
        })
    }

    fn url(&self) -> String {
        format!("https://{}:{}{}", self.host, self.port, self.path)
    }

    async fn addr(&self, shared: &Shared, service: &Value) -> Result<SocketAddr, String> {
        if self.service {
            let (namespace, name) = (text(service, &["namespace"]), text(service, &["name"]));
            return backend(shared, namespace, name, self.port);
        }
        let mut found =
            lookup_host((self.host.as_str(), self.port)).await.map_err(|e| e.to_string())?;
        found.next().ok_or_else(|| format!("no address of {}", self.host))
    }
}

/// A ready endpoint of a Service's port.
fn backend(shared: &Shared, namespace: &str, name: &str, port: u16) -> Result<SocketAddr, String> {
    let service = shared
        .store
        .get("/services", &Key::new(namespace, name))
        .ok_or_else(|| format!("service {name:?} not found"))?;
    let port = list(&service.value, &["spec", "ports"])
        .iter()
        .find(|p| p["port"].as_u64() == Some(port.into()))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = text(port, &["name"]);
    let (_, slices) = shared.store.list("discovery.k8s.io/endpointslices", Some(namespace));
    let of_service = slices
        .iter()
        .filter(|s| text(&s.value, &["metadata", "labels", "kubernetes.io/service-name"]) == name);
    for slice in of_service {
        let number = list(&slice.value, &["ports"])
            .iter()
            .find(|p| text(p, &["name"]) == port_name)
            .and_then(|p| p["port"].as_u64())
            .and_then(|p| u16::try_from(p).ok());
        let ready = list(&slice.value, &["endpoints"])
            .iter()
            .find(|e| e["conditions"]["ready"] != Value::Bool(false))
            .and_then(|e| list(e, &["addresses"]).first())
            .and_then(|a| a.as_str()?.parse().ok());
        if let (Some(port), Some(ip)) = (number, ready) {
            return Ok(SocketAddr::new(ip, port));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

fn tls(config: &Value) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let bundle = text(config, &["caBundle"]);
    let pem = STANDARD.decode(bundle).map_err(|e| format!("caBundle is not base64: {e}"))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| format!("caBundle does not parse: {e}"))?;
        roots.add(certificate).map_err(|e| format!("caBundle: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
