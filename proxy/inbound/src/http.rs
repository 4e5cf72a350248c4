//! # Requests to the application
//!
//! Job: per request: undo the carriage over HTTP/2, say who calls, obey the policy, forward, mark the
//! response.
//! May touch: heads of requests and responses. Must not touch: bodies, sockets. Callers: sidecar, direct,
//! admin.

mod app;
mod decide;
mod exchange;

pub(crate) use app::Apps;

use crate::{
    access_log::{Entry, timed},
    connection::Connection,
    error::Error,
    gateway::Gateway,
    profiles::Names,
};
use ::http::{HeaderValue, Request, Response, uri};
use decide::{Decision, Decisions};
use exchange::InboundExchange;
use futures::TryFutureExt;
use mesh_http::{
    Balancer, Body, Error as HttpError, ServerParams, Service, detect::HttpVersion,
    headers::CLIENT_ID, normalize, orig_proto,
};
use mesh_model::inbound::ClientTls;
use mesh_observe::{
    Direction, InboundErrorLabels, Metrics,
    trace::{OpenSpan, SpanKind},
};
use mesh_process::drain;
use mesh_stack::io::Io;
use std::sync::Arc;

/// Requests go to the application.
#[derive(Clone)]
pub(crate) struct ToApp(pub(crate) Balancer, pub(crate) Metrics);

/// Requests go onward, to a name that the peer gave.
#[derive(Clone)]
pub(crate) struct ToGateway<G: Gateway>(pub(crate) G, pub(crate) G::Route);

impl Service for ToApp {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, HttpError>> + Send {
        let span = self.1.span(Direction::Inbound, SpanKind::Client, &mut request);
        let sent = self.0.call(request, |_, _| Ok(()));
        sent.inspect_ok(|response| {
            if let Some(span) = span {
                span.end(response.status());
            }
        })
    }
}

impl<G: Gateway> Service for ToGateway<G> {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        self.0.request(&self.1, request).await
    }
}

/// Serves a connection of HTTP until it ends. Requests are counted by their `names`, if those are given.
pub(crate) async fn serve<S: Service>(
    connection: Connection,
    names: Option<Names>,
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
    let decisions = Decisions::new(&connection);
    let inner = Inner { connection, names, next, default_authority, client_id, decisions };
    let requests = Requests(Arc::new(inner));
    let stop = drain.clone();
    let served = mesh_http::serve(io, version, &params, requests, async move {
        stop.signaled().await;
    });
    let result = served.await;
    // Held until the last response is out.
    drop(drain);
    Ok(result?)
}

/// What is known of a request that has a route and may take it.
struct Arrived {
    /// It came over HTTP/2 that it does not speak.
    carried: bool,
    span: Option<OpenSpan>,
    decision: Decision,
}

struct Requests<S>(Arc<Inner<S>>);

struct Inner<S> {
    connection: Connection,
    names: Option<Names>,
    next: S,
    default_authority: uri::Authority,
    client_id: Option<HeaderValue>,
    decisions: Decisions,
}

impl<S> Clone for Requests<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service> Service for Requests<S> {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, HttpError>> + Send {
        let inner = &*self.0;
        async move {
            let Some(log) = &inner.connection.shared.config.access_log else {
                return inner.respond(&mut request).await;
            };
            let client = inner.client_id.as_ref();
            let (entry, mut request) = Entry::begin(log, inner.connection.client, client, request);
            // Boxed: where there is no log, requests shall not make room for it.
            let (result, busy) = Box::pin(timed(inner.respond(&mut request))).await;
            entry.finish(result, busy)
        }
    }
}

impl<S: Service> Inner<S> {
    /// Answers a request, and leaves an empty one in its place: it is large, and each future on its way would else have room
    /// for it.
    fn respond(
        &self,
        request: &mut Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, HttpError>> + Send {
        self.handle(request).inspect_err(|error| self.count(error))
    }

    async fn handle(&self, request: &mut Request<Body>) -> Result<Response<Body>, HttpError> {
        let _in_flight = self.connection.shared.in_flight.enter()?;
        let Arrived { carried, span, decision } = self.arrive(request)?;
        let (exchange, passed) = self.pass(&decision, request);
        let sent = match passed {
            Ok(()) => self.next.call(std::mem::take(request)).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(response) => {
                if let Some(span) = span {
                    span.end(response.status());
                }
                let mut response = exchange.respond(response);
                if carried {
                    orig_proto::mark_response(&mut response);
                }
                Ok(response)
            }
            Err(error) => {
                exchange.fail(&error);
                Err(error)
            }
        }
    }

    /// What a request is, who sends it, and what it may do. These steps are functions of their own: what an
    /// `async` function has borrowed once it keeps room for until its end.
    fn arrive(&self, request: &mut Request<Body>) -> Result<Arrived, HttpError> {
        let carried = orig_proto::downgrade_request(request);
        let fields = request.headers_mut();
        // Whatever the client says of itself.
        match &self.client_id {
            Some(id) => drop(fields.insert(CLIENT_ID, id.clone())),
            None => drop(fields.remove(CLIENT_ID)),
        }
        normalize::normalize(request, || Some(self.default_authority.clone()))?;
        let metrics = &self.connection.shared.metrics;
        let span = metrics.span(Direction::Inbound, SpanKind::Server, request);
        let decision = self.decisions.decide(&self.connection, request)?;
        Ok(Arrived { carried, span, decision })
    }

    /// Counts a request that is let in, and the request itself unless filters or limits refuse it.
    fn pass(
        &self,
        decision: &Decision,
        request: &mut Request<Body>,
    ) -> (InboundExchange, Result<(), HttpError>) {
        let asked = self.names.as_ref().and_then(|names| names.of(request));
        let mut exchange = decision.series().begin(request);
        let passed = decision.filter(request).and_then(|()| decision.limit(&self.connection));
        if passed.is_ok() {
            exchange.forward(decision.series(), asked.as_deref(), request);
        }
        (exchange, passed)
    }

    /// Counts what went wrong, unless a family of its own has.
    fn count(&self, error: &HttpError) {
        let kind = error.kind();
        if kind != decide::COUNTED {
            let server = self.connection.policy.now();
            let at =
                InboundErrorLabels { target: self.connection.target, server: Some(&server.meta) };
            self.connection.shared.metrics.errors.inbound_http(kind, at);
        }
    }
}
