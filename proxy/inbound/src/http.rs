//! # Requests to the application
//!
//! Job: per request: undo the carriage over HTTP/2, say who calls, obey the policy, forward, mark the
//! response.
//! May touch: heads of requests and responses. Must not touch: bodies, sockets. Callers: sidecar, direct.

mod app;
mod series;

pub(crate) use app::Apps;

use crate::{connection::Connection, error::Error, gateway::Gateway, http::series::SeriesCache};
use ::http::{HeaderValue, Request, Response, StatusCode, uri};
use mesh_http::{
    Balancer, Body, Error as HttpError, ServerParams, Service,
    detect::HttpVersion,
    headers::CLIENT_ID,
    normalize, orig_proto,
    respond::{GrpcCode, Problem, status_of},
};
use mesh_model::{
    inbound::{ClientTls, Permit, RequestRefused},
    route::RequestView,
};
use mesh_observe::{AccessLabels, InboundErrorLabels, StreamError};
use mesh_process::drain;
use mesh_stack::io::Io;
use std::sync::Arc;

/// Requests go to the application.
#[derive(Clone)]
pub(crate) struct ToApp(pub(crate) Balancer);

/// Requests go onward, to a name that the peer gave.
#[derive(Clone)]
pub(crate) struct ToGateway<G: Gateway>(pub(crate) G, pub(crate) G::Route);

impl Service for ToApp {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        self.0.call(request, |_, _| Ok(())).await
    }
}

impl<G: Gateway> Service for ToGateway<G> {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        self.0.request(&self.1, request).await
    }
}

/// Serves a connection of HTTP until it ends.
pub(crate) async fn serve<S: Service>(
    connection: Connection,
    next: S,
    default_authority: uri::Authority,
    version: HttpVersion,
    io: impl Io,
    drain: drain::Watch,
) -> Result<(), Error> {
    let meshed = matches!(connection.tls, ClientTls::Mesh { client: Some(_) });
    // Reasons go to peers of the mesh only; a stranger learns nothing of what is behind.
    let params = ServerParams { informational_headers: meshed, ..connection.shared.config.server };
    let client_id = match &connection.tls {
        ClientTls::Mesh { client: Some(id) } => HeaderValue::from_str(id.as_str()).ok(),
        _ => None,
    };
    let series = SeriesCache::new(&connection);
    let requests =
        Requests(Arc::new(Inner { connection, next, default_authority, client_id, series }));
    let stop = drain.clone();
    let served = mesh_http::serve(io, version, &params, requests, async move {
        stop.signaled().await;
    });
    let result = served.await;
    // Held until the last response is out.
    drop(drain);
    Ok(result?)
}

struct Requests<S>(Arc<Inner<S>>);

struct Inner<S> {
    connection: Connection,
    next: S,
    default_authority: uri::Authority,
    client_id: Option<HeaderValue>,
    series: SeriesCache,
}

impl<S> Clone for Requests<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service> Service for Requests<S> {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        let inner = &*self.0;
        let result = inner.handle(request).await;
        if let Err(error) = &result {
            inner.count(error);
        }
        result
    }
}

impl<S: Service> Inner<S> {
    async fn handle(&self, mut request: Request<Body>) -> Result<Response<Body>, HttpError> {
        let _in_flight = self.connection.shared.in_flight.enter()?;
        let carried = orig_proto::downgrade_request(&mut request);
        request.headers_mut().remove(CLIENT_ID);
        if let Some(id) = &self.client_id {
            request.headers_mut().insert(CLIENT_ID, id.clone());
        }
        normalize::normalize(&mut request, || Some(self.default_authority.clone()))?;
        let permit = self.authorize(&request)?;
        let exchange = self.series.admit(&self.connection, permit).begin(&request);
        match self.next.call(request).await {
            Ok(response) => {
                let mut response = exchange.respond(response);
                if carried {
                    orig_proto::mark_response(&mut response);
                }
                Ok(response)
            }
            Err(error) => {
                exchange.fail(status_of(&error), StreamError::of(&error));
                Err(error)
            }
        }
    }

    fn authorize(&self, request: &Request<Body>) -> Result<Permit, HttpError> {
        let connection = &self.connection;
        let policy = connection.policy.now();
        let view = RequestView::of(request);
        let tls = &connection.tls;
        match policy.authorize_request(&view, connection.client, tls) {
            Ok((_, permit)) => Ok(permit),
            Err(refused) => {
                let tls = connection.tls_label();
                let access = &connection.shared.metrics.access;
                let route = match &refused {
                    RequestRefused::Denied(denied) => denied.route.as_ref(),
                    RequestRefused::NoRoute => None,
                };
                let labels = AccessLabels {
                    target: connection.target,
                    tls: &tls,
                    server: &policy.meta,
                    route,
                };
                let problem = match &refused {
                    RequestRefused::NoRoute => {
                        access.route_not_found(labels);
                        Problem::new(StatusCode::NOT_FOUND, GrpcCode::NotFound, refused.to_string())
                    }
                    RequestRefused::Denied(denied) => {
                        access.http().denied(labels);
                        tracing::info!(client = %connection.client, server = denied.server.name(), "Request denied");
                        Problem::new(
                            StatusCode::FORBIDDEN,
                            GrpcCode::PermissionDenied,
                            "unauthorized request on route",
                        )
                    }
                };
                Err(problem.kind(COUNTED).into())
            }
        }
    }

    fn count(&self, error: &HttpError) {
        let kind = error.kind();
        if kind != COUNTED {
            let server = self.connection.policy.now();
            let at =
                InboundErrorLabels { target: self.connection.target, server: Some(&server.meta) };
            self.connection.shared.metrics.errors.inbound_http(kind, at);
        }
    }
}

/// The `kind` of refusals that the authorisation families count.
const COUNTED: &str = "unauthorized";
