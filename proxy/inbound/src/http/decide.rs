//! # What a request may do
//!
//! Job: route, authorisation, filters and rate limit of a request, in this order. All that follows from
//! who calls is decided once for a connection and route, and again after a change of policy: a request
//! costs a comparison of generations, a route match, and increments.
//! May touch: heads of requests, metric handles. Must not touch: bodies, sockets. Callers: `http`.

use crate::{
    connection::Connection,
    http::exchange::{EndpointSeries, Named, RequestSeries},
    policy::{Active, Following},
    rate::ClientLimits,
};
use http::{HeaderValue, Request, StatusCode, header};
use mesh_http::{
    Error,
    respond::{GrpcCode, Problem},
};
use mesh_model::{
    filter::{self, FailureKind, Outcome},
    inbound::{ClientTls, InboundRoute, InboundRule, Permit, ServerProtocol},
    route::RequestView,
};
use mesh_observe::{AccessLabels, Counter, InboundLabels, RequestKind, Tls};
use parking_lot::Mutex;
use std::sync::Arc;

/// What one connection may do.
pub(crate) struct Decisions(Mutex<State>);

struct State {
    policy: Following,
    limits: Option<ClientLimits>,
    /// By index of the route.
    routes: Vec<Option<OnRoute>>,
}

/// What the connection's client may do on a route.
#[derive(Clone)]
enum OnRoute {
    Allowed(Arc<Allowed>),
    Denied(Counter),
}

struct Allowed {
    count: Counter,
    audited: bool,
    series: RequestSeries,
}

/// A request that is let in; its filters and limits are yet to be asked.
pub(crate) struct Decision {
    active: Arc<Active>,
    allowed: Arc<Allowed>,
    limits: Option<ClientLimits>,
    /// Indices of route and rule.
    at: (usize, usize),
}

/// The `kind` of refusals that families of their own count: authorisations, limits, statuses of routes.
pub(crate) const COUNTED: &str = "unauthorized";

// === impl Decisions ===

impl Decisions {
    pub(crate) fn new(connection: &Connection) -> Self {
        let policy = connection.policy.follow();
        let mut state = State { policy, limits: None, routes: Vec::new() };
        state.start_over(connection);
        Self(Mutex::new(state))
    }

    /// Finds the route of a request and authorises it.
    ///
    /// # Errors
    /// 404 without a route, 403 if nothing lets the client in.
    pub(crate) fn decide<B>(
        &self,
        connection: &Connection,
        request: &Request<B>,
    ) -> Result<Decision, Error> {
        let mut state = self.0.lock();
        if state.policy.refresh() {
            state.start_over(connection);
        }
        let active = state.policy.active().clone();
        let Some(chosen) = active.routes.choose(|| RequestView::of(request)) else {
            connection.shared.metrics.access.route_not_found(AccessLabels {
                target: connection.target,
                tls: &connection.tls_label(),
                server: &active.meta,
                route: None,
            });
            const NO_ROUTE: &str = "no route found for request";
            let problem = Problem::new(StatusCode::NOT_FOUND, GrpcCode::NotFound, NO_ROUTE);
            return Err(problem.kind(COUNTED).into());
        };
        let index = active.routes.routes().iter().position(|r| std::ptr::eq(r, chosen.route));
        let at = (index.unwrap_or_default(), chosen.rule);
        let on = state.on(at.0, connection, &active, chosen.route);
        let limits = state.limits.clone();
        drop(state);
        let allowed = on.authorize(connection, &active)?;
        Ok(Decision { active, allowed, limits, at })
    }
}

impl State {
    fn start_over(&mut self, connection: &Connection) {
        let active = self.policy.active();
        let client = match &connection.tls {
            ClientTls::Mesh { client } => client.as_ref(),
            ClientTls::Plaintext => None,
        };
        self.limits = active.limits.as_ref().map(|limits| limits.of(client));
        self.routes.clear();
        self.routes.resize(active.routes.routes().len(), None);
    }

    fn on(
        &mut self,
        index: usize,
        connection: &Connection,
        active: &Active,
        route: &InboundRoute,
    ) -> OnRoute {
        if let Some(Some(known)) = self.routes.get(index) {
            return known.clone();
        }
        let new = OnRoute::resolve(connection, active, route);
        if let Some(place) = self.routes.get_mut(index) {
            *place = Some(new.clone());
        }
        new
    }
}

// === impl OnRoute ===

impl OnRoute {
    fn resolve(connection: &Connection, active: &Active, route: &InboundRoute) -> Self {
        let Connection { shared, client, target, .. } = connection;
        let (metrics, tls) = (&shared.metrics, connection.tls_label());
        let labels = AccessLabels {
            target: *target,
            tls: &tls,
            server: &active.meta,
            route: Some(&route.meta),
        };
        let Ok(permit) = active.authorize_route(route, *client, &connection.tls) else {
            return Self::Denied(metrics.access.http().denied(labels));
        };
        let count = metrics.access.http().allowed(labels, permit.authorization());
        let kind = match active.protocol {
            ServerProtocol::Grpc(_) => RequestKind::Grpc,
            _ => RequestKind::Http,
        };
        let (labels, http) = (inbound_labels(connection, tls, &permit), &metrics.http);
        let endpoint = if shared.config.authority_labels {
            let (metrics, last) = (http.clone(), Mutex::default());
            EndpointSeries::Named(Box::new(Named { metrics, labels, last }))
        } else {
            EndpointSeries::One(http.inbound(&labels))
        };
        let route = metrics.inbound_routes.series(kind, &active.meta, target.port(), &route.meta);
        let series = RequestSeries { endpoint, route };
        Self::Allowed(Arc::new(Allowed { count, audited: permit.audited(), series }))
    }

    fn authorize(self, connection: &Connection, active: &Active) -> Result<Arc<Allowed>, Error> {
        match self {
            Self::Allowed(allowed) => {
                allowed.count.incr();
                if allowed.audited {
                    tracing::info!(client = %connection.client, tls = ?connection.tls, target = %connection.target, "Request allowed by audit");
                }
                Ok(allowed)
            }
            Self::Denied(count) => {
                count.incr();
                tracing::info!(client = %connection.client, tls = ?connection.tls, server = active.meta.name(), "Request denied");
                const DENIED: &str = "unauthorized request on route";
                let problem =
                    Problem::new(StatusCode::FORBIDDEN, GrpcCode::PermissionDenied, DENIED);
                Err(problem.kind(COUNTED).into())
            }
        }
    }
}

fn inbound_labels(connection: &Connection, tls: Tls, permit: &Permit) -> InboundLabels {
    InboundLabels {
        authority: None,
        target: connection.target,
        tls,
        server: permit.server().clone(),
        server_port: connection.target.port(),
        route: permit.route().cloned(),
        authorization: Some(permit.authorization().clone()),
    }
}

// === impl Decision ===

impl Decision {
    /// Applies the filters of the rule to the request.
    ///
    /// # Errors
    /// A redirect, a failure made on purpose, or a filter that cannot be obeyed.
    pub(crate) fn filter<B>(&self, request: &mut Request<B>) -> Result<(), Error> {
        let Some(rule) = self.rule().filter(|rule| !rule.filters.is_empty()) else { return Ok(()) };
        let problem = match filter::apply(&rule.filters, &rule.matches, request, rand::random) {
            Outcome::Pass => return Ok(()),
            Outcome::Redirect(status, to) => {
                let message = format!("request redirected to {to}");
                let mut problem = Problem::new(status, GrpcCode::NotFound, message);
                // A URI is made of characters that a header may hold.
                if let Ok(value) = HeaderValue::from_str(&to.to_string()) {
                    problem.headers.push((header::LOCATION, value));
                }
                problem
            }
            Outcome::Fail(failure) => made(failure.kind, &failure.message),
            Outcome::Unusable(reason) => {
                let message = format!("invalid server policy: {reason}");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Problem::new(status, GrpcCode::Internal, message)
            }
        };
        Err(problem.kind(COUNTED).into())
    }

    /// Counts the request against the limits of the server.
    ///
    /// # Errors
    /// 429 if there is no room.
    pub(crate) fn limit(&self, connection: &Connection) -> Result<(), Error> {
        let Some(limits) = &self.limits else { return Ok(()) };
        let Err(limited) = limits.admit() else { return Ok(()) };
        let metrics = &connection.shared.metrics.inbound_routes;
        let by = &limits.config().meta;
        metrics.limited(&self.active.meta, connection.target.port(), by, limited.scope).incr();
        tracing::debug!(client = %connection.client, %limited, "Request limited");
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut problem = Problem::new(status, GrpcCode::ResourceExhausted, limited.to_string());
        // There is room again within a second, whatever the limit (RFC 9110, section 10.2.3).
        problem.headers.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
        Err(problem.kind(COUNTED).into())
    }

    /// Where the request is counted.
    pub(crate) fn series(&self) -> &RequestSeries {
        &self.allowed.series
    }

    fn rule(&self) -> Option<&InboundRule> {
        let (route, rule) = self.at;
        self.active.routes.routes().get(route)?.rules.get(rule)
    }
}

/// A failure that the policy asks for.
fn made(kind: FailureKind, message: &str) -> Problem {
    match kind {
        FailureKind::Http(status) => {
            let reason = format!("HTTP request configured to fail with {status}: {message}");
            Problem::new(status, GrpcCode::FailedPrecondition, reason)
        }
        FailureKind::Grpc(code) => {
            let code = GrpcCode::from_u16(code).unwrap_or(GrpcCode::Unknown);
            Problem::new(StatusCode::OK, code, message)
        }
    }
}
