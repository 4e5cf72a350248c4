//! # Admin server of control-plane processes
//!
//! Job: `/metrics`, `/ping`, `/ready`, `/live` and what a process adds, over plain HTTP.
//! May touch: its own socket. Must not touch: the proxy's admin port, which lies behind policy.
//! Callers: binaries of the control plane and the mirror.

use crate::{
    drain, http_server,
    http_server::{Limits, SmallResponse},
    metrics,
    ready::{Readiness, State},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prometheus::Registry;
use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinHandle};

/// A handler that a process adds.
pub type Handler =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, SmallResponse> + Send + Sync>;

/// What the server shows.
#[derive(Clone)]
pub struct AdminState {
    /// Shown by `/metrics`.
    pub registry: Registry,
    /// Shown by `/ready`.
    pub readiness: Readiness,
    /// More paths, exact match.
    pub routes: BTreeMap<String, Handler>,
}

/// A running admin server; dropping it stops the server at once. It keeps serving during a drain, so
/// that the drain can be watched.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    task: JoinHandle<()>,
    _stop: drain::Signal,
}

/// The address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("the admin server cannot listen on {addr}: {source}; free the port or choose another")]
pub struct AdminError {
    /// As configured.
    pub addr: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl AdminState {
    /// Without routes of its own.
    pub fn new(registry: Registry, readiness: Readiness) -> Self {
        Self { registry, readiness, routes: BTreeMap::new() }
    }
}

/// Binds `addr` (already mapped by the Pod context) and serves until the result is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(addr: SocketAddr, state: AdminState) -> Result<Admin, AdminError> {
    let fail = |source| AdminError { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    let (stop, watch) = drain::channel();
    let state = Arc::new(state);
    let handler = move |request| answer(state.clone(), request);
    let task = tokio::spawn(http_server::serve(listener, Limits::default(), watch, handler));
    Ok(Admin { addr, task, _stop: stop })
}

impl Admin {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(state: Arc<AdminState>, request: Request<Incoming>) -> SmallResponse {
    if let Some(handler) = state.routes.get(request.uri().path()) {
        return handler(request).await;
    }
    let known = matches!(request.uri().path(), "/metrics" | "/ping" | "/live" | "/ready");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/metrics" => exposition(&state.registry),
        "/ping" => text(StatusCode::OK, "pong\n"),
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => match state.readiness.state() {
            State::Ready => text(StatusCode::OK, "ok\n"),
            State::Waiting => text(StatusCode::INTERNAL_SERVER_ERROR, "not ready\n"),
            State::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// A plain-text answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> SmallResponse {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// The registry as an answer.
pub fn exposition(registry: &Registry) -> SmallResponse {
    let mut response = text(StatusCode::OK, metrics::encode(registry));
    let kind = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(addr: SocketAddr, head: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    // proves: PROC-1
    #[tokio::test]
    async fn answers_as_the_peers_admin_servers_do() {
        let readiness = Readiness::new();
        let registry = Registry::new();
        metrics::register_process(&registry).unwrap();
        let token = readiness.block("a watch");
        let mut state = AdminState::new(registry, readiness.clone());
        let extra: Handler = Arc::new(|_| Box::pin(async { text(StatusCode::IM_A_TEAPOT, "tea") }));
        state.routes.insert("/tea".into(), extra);
        let admin = serve("127.0.0.1:0".parse().unwrap(), state).await.unwrap();
        let at = admin.addr();
        for (head, status, body) in [
            ("GET /ping", "200", "pong\n"),
            ("GET /live", "200", "live\n"),
            ("GET /ready", "500", "not ready\n"),
            ("GET /nothing", "404", "not found\n"),
            ("POST /ping", "405", "only GET and HEAD\n"),
            ("GET /tea", "418", "tea"),
        ] {
            let answer = get(at, head).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{head}: {answer}");
        }
        assert!(get(at, "GET /metrics").await.contains("process_threads"));
        drop(token);
        assert!(get(at, "GET /ready").await.ends_with("ok\n"));
        readiness.set_draining();
        assert!(get(at, "GET /ready").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let state = AdminState::new(Registry::new(), Readiness::new());
        let error = serve(addr, state).await.unwrap_err();
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}
