//! # The API server, as far as the plugin needs it
//!
//! Job: one object by its path, with the credentials of a kubeconfig. The data plane does without the crates
//! of Kubernetes, and these few reads need none of them.
//! May touch: the kubeconfig and the files that it names, one connection. Callers: `cni`.

use crate::kubeconfig::{Access, BadKubeconfig};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::Value;
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};
use tokio_rustls::TlsConnector;

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    Kubeconfig(#[from] BadKubeconfig),
    #[error("the API server at {server} cannot be reached: {reason}")]
    Unreachable { server: String, reason: String },
    #[error("the API server did not answer {path} within {PATIENCE:?}")]
    Silent { path: String },
    #[error(
        "the API server answered {status} to {path}: {message}; see that the ClusterRole linkerd-cni is bound"
    )]
    Refused { status: u16, path: String, message: String },
    #[error("the system refuses what a program needs to start: {0}")]
    System(#[source] io::Error),
}

/// An API server and how to be let in.
pub(crate) struct Api {
    server: Uri,
    token: String,
    tls: TlsConnector,
    runtime: Runtime,
}

impl Api {
    /// From a kubeconfig.
    pub(crate) fn new(kubeconfig: &Path) -> Result<Self, ApiError> {
        let access = Access::read(kubeconfig)?;
        let mut roots = RootCertStore::empty();
        for certificate in access.authority {
            roots.add(certificate).map_err(|e| BadKubeconfig::Authority(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| BadKubeconfig::Authority(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            server: access.server,
            token: access.token,
            tls: TlsConnector::from(Arc::new(config)),
            runtime: runtime.map_err(ApiError::System)?,
        })
    }

    /// An object. The path has been made of names that were checked.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ApiError> {
        let answered = self.runtime.block_on(async { timeout(PATIENCE, self.ask(path)).await });
        let (status, body) = match answered {
            Err(_) => return Err(ApiError::Silent { path: path.to_owned() }),
            Ok(answered) => answered.map_err(|reason| ApiError::Unreachable {
                server: self.server.to_string(),
                reason,
            })?,
        };
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status == 200 && object.is_object() {
            return Ok(object);
        }
        let message = object["message"].as_str().unwrap_or("no object").to_owned();
        Err(ApiError::Refused { status, path: path.to_owned(), message })
    }

    async fn ask(&self, path: &str) -> Result<(u16, Vec<u8>), String> {
        let text = |e: &dyn std::error::Error| e.to_string();
        let host = self.server.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.server.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host, port)).await.map_err(|e| text(&e))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| text(&e))?;
        let stream = self.tls.connect(name, stream).await.map_err(|e| text(&e))?;
        let (mut requests, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| text(&e))?;
        let authority = self.server.authority().map_or("", http::uri::Authority::as_str);
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|e| text(&e))?;
        let exchange = async {
            let response = requests.send_request(request).await.map_err(|e| text(&e))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_OBJECT).collect().await;
            Ok((status, body.map_err(|e| e.to_string())?.to_bytes().to_vec()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            answered = &mut exchange => answered,
            // The connection may end before its last answer has been taken.
            _ = connection => exchange.await,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
/// etcd takes no more than 1.5 MiB.
const MAX_OBJECT: usize = 8 << 20;
