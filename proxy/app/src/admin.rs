//! # The admin server
//!
//! Job: what operators, kubelets and scrapers ask of the proxy.
//! May touch: metrics, readiness, the log filter, the environment (to show it). Must not touch: traffic.
//! Callers: `proxy` serves it behind the inbound rules of its port.

use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use mesh_http::{Body, Error, Service};
use mesh_net::connect::is_own_loopback;
use mesh_observe::Metrics;
use mesh_process::{
    logs, metrics,
    ready::{Readiness, State},
};
use std::{io::Write, net::IpAddr, sync::Arc};
use tokio::sync::mpsc;

/// What the answers are made of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admin(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    readiness: Readiness,
    logs: logs::Handle,
    /// Starts the drain; `None` if the endpoint is not enabled.
    shutdown: Option<mpsc::Sender<()>>,
    environment: Vec<(String, String)>,
}

/// Answers one connection.
#[derive(Clone)]
pub(crate) struct AdminService {
    admin: Admin,
    client: IpAddr,
}

/// A log filter is not longer.
const LARGEST_FILTER: usize = 16 * 1024;

impl Admin {
    pub(crate) fn new(
        metrics: Metrics,
        readiness: Readiness,
        logs: logs::Handle,
        shutdown: Option<mpsc::Sender<()>>,
        environment: Vec<(String, String)>,
    ) -> Self {
        Self(Arc::new(Inner { metrics, readiness, logs, shutdown, environment }))
    }

    /// For a client at this address.
    pub(crate) fn service(&self, client: IpAddr) -> AdminService {
        AdminService { admin: self.clone(), client }
    }
}

impl Service for AdminService {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let version = request.version();
        let mut response = self.answer(request).await;
        *response.version_mut() = version;
        Ok(response)
    }
}

impl AdminService {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let inner = &self.admin.0;
        match request.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => match inner.readiness.state() {
                State::Ready => text(StatusCode::OK, "ready\n"),
                State::Waiting | State::Draining => {
                    text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
                }
            },
            "/metrics" => self.metrics(takes_gzip(&request)).await,
            "/proxy-log-level" => self.log_level(request).await,
            "/env.json" => self.environment(&request),
            "/shutdown" => self.shutdown(&request),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Made on a thread of its own: this one holds identity and discovery.
    async fn metrics(&self, zipped: bool) -> Response<Body> {
        let metrics = self.admin.0.metrics.clone();
        let made = tokio::task::spawn_blocking(move || {
            let text = metrics.text();
            if zipped { zip(&text) } else { Ok(text) }
        });
        let body = match made.await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return broken(&error),
            Err(error) => return broken(&error),
        };
        let mut response = with_type(StatusCode::OK, metrics::CONTENT_TYPE, body);
        if zipped {
            let gzip = HeaderValue::from_static("gzip");
            response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }

    async fn log_level(&self, request: Request<Body>) -> Response<Body> {
        if !is_own_loopback(self.client) {
            return forbidden();
        }
        let logs = &self.admin.0.logs;
        let Some(filter) = logs.filter() else {
            return text(StatusCode::NOT_FOUND, "logging is off\n");
        };
        match *request.method() {
            Method::GET => text(StatusCode::OK, filter),
            Method::PUT => {
                let body = Limited::new(request.into_body(), LARGEST_FILTER).collect().await;
                let bytes = body.map(http_body_util::Collected::to_bytes);
                let set = match bytes.map(|b| String::from_utf8(b.to_vec())) {
                    Ok(Ok(filter)) => logs.set_filter(filter.trim()).map_err(|e| e.to_string()),
                    _ => Err("the filter is not text of at most 16 KiB".to_owned()),
                };
                match set {
                    Ok(()) => text(StatusCode::NO_CONTENT, ""),
                    Err(reason) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
                }
            }
            _ => not_allowed("GET, PUT"),
        }
    }

    fn environment(&self, request: &Request<Body>) -> Response<Body> {
        const JSON: &str = "application/json";
        if request.method() != Method::GET {
            return not_allowed("GET");
        }
        let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok());
        let takes = ["*/*", "application/*", JSON];
        if accept.is_some_and(|accept| !takes.iter().any(|t| accept.contains(t))) {
            return text(StatusCode::NOT_ACCEPTABLE, "the answer is JSON\n");
        }
        let known = &self.admin.0.environment;
        let value = |name: &str| known.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let map: serde_json::Map<_, _> = match request.uri().query().filter(|q| !q.is_empty()) {
            Some(query) if query.contains('=') => {
                let status = StatusCode::BAD_REQUEST;
                let error = serde_json::json!({
                    "error": "names of variables are separated by `&`, without values",
                    "status": status.as_u16(),
                });
                return with_type(status, JSON, error.to_string());
            }
            Some(query) => query
                .split('&')
                .map(|name| (name.to_owned(), value(name).map(str::to_owned).into()))
                .collect(),
            None => known.iter().map(|(n, v)| (n.clone(), v.clone().into())).collect(),
        };
        with_type(StatusCode::OK, JSON, serde_json::Value::Object(map).to_string())
    }

    fn shutdown(&self, request: &Request<Body>) -> Response<Body> {
        if request.method() != Method::POST {
            return not_allowed("POST");
        }
        if !is_own_loopback(self.client) {
            return forbidden();
        }
        match &self.admin.0.shutdown {
            None => text(StatusCode::NOT_FOUND, "shutdown endpoint is not enabled\n"),
            Some(start) => {
                // A full channel means that the drain has been asked for already.
                let _ = start.try_send(());
                text(StatusCode::OK, "shutting down\n")
            }
        }
    }
}

fn takes_gzip(request: &Request<Body>) -> bool {
    let encodings = request.headers().get(header::ACCEPT_ENCODING);
    encodings.is_some_and(|value| value.as_bytes().windows(4).any(|name| name == b"gzip"))
}

fn zip(text: &[u8]) -> std::io::Result<Vec<u8>> {
    // Fast: the text repeats itself so much that more effort gains little.
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 16), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

fn broken(error: &dyn std::error::Error) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be made: {error}\n"))
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<Body> {
    let body = body.into();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    }
    *response.body_mut() = Body::full(body);
    response
}

fn forbidden() -> Response<Body> {
    text(StatusCode::FORBIDDEN, "requests are accepted from localhost only\n")
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}
