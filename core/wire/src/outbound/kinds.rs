//! # Kinds of outbound routes
//!
//! Job: what differs between the four route messages, behind one trait, so that their translation is
//! written once. Callers: the parent file.

use crate::Invalid;
use linkerd2_proxy_api::{
    grpc_route as grpc, http_route as http, meta::Metadata, opaque_route, outbound as api,
};

/// What a route message boils down to.
pub(super) struct Parts {
    pub(super) metadata: Option<Metadata>,
    pub(super) backends: Vec<api::Backend>,
    pub(super) refusal: Option<Refusal>,
}

/// A route that refuses instead of forwarding.
pub(super) enum Refusal {
    Forbidden,
    Invalid(String),
}

/// One kind of route message.
pub(super) trait Kind {
    type Route;

    /// A route of one rule, without hosts.
    fn build(
        metadata: Metadata,
        backends: Vec<api::Backend>,
        refusal: Option<Refusal>,
    ) -> Self::Route;

    /// The parts of a route of one rule; an error if the route says more.
    fn take(route: Self::Route) -> Result<Parts, Invalid>;
}

pub(super) struct HttpKind;
pub(super) struct GrpcKind;
pub(super) struct OpaqueKind;
pub(super) struct TlsKind;

/// The distribution of a kind: the message types differ by their module, the fields do not.
macro_rules! distribution {
    ($name:ident, $module:ident) => {
        mod $name {
            use crate::Invalid;
            use linkerd2_proxy_api::outbound::{
                Backend,
                $module::{Distribution, RouteBackend, distribution as d},
            };

            pub(super) fn build(backends: Vec<Backend>) -> Distribution {
                let backend = |b| RouteBackend { backend: Some(b), ..Default::default() };
                let backends: Vec<_> = backends.into_iter().map(backend).collect();
                let kind = match backends.is_empty() {
                    true => d::Kind::Empty(d::Empty {}),
                    false => d::Kind::FirstAvailable(d::FirstAvailable { backends }),
                };
                Distribution { kind: Some(kind) }
            }

            pub(super) fn take(from: Option<Distribution>) -> Result<Vec<Backend>, Invalid> {
                let kind = from.and_then(|d| d.kind).ok_or(Invalid::Missing("route backends"))?;
                let backends = match kind {
                    d::Kind::Empty(_) => Vec::new(),
                    d::Kind::FirstAvailable(first) => first.backends,
                    // A choice among one is no choice: what a route with a single backend gives.
                    d::Kind::RandomAvailable(mut random) => match random.backends.len() {
                        0 | 1 => {
                            random.backends.pop().and_then(|b| b.backend).into_iter().collect()
                        }
                        _ => return Err(Invalid::Unsupported("weighted backends")),
                    },
                };
                let plain = |b: RouteBackend| match b.filters.is_empty() {
                    true => b.backend.ok_or(Invalid::Missing("backend of a route")),
                    false => Err(Invalid::Unsupported("a filter on a backend")),
                };
                backends.into_iter().map(plain).collect()
            }
        }
    };
}

distribution!(http_backends, http_route);
distribution!(grpc_backends, grpc_route);
distribution!(opaque_backends, opaque_route);
distribution!(tls_backends, tls_route);

impl Kind for HttpKind {
    type Route = api::HttpRoute;

    fn build(
        metadata: Metadata,
        backends: Vec<api::Backend>,
        refusal: Option<Refusal>,
    ) -> api::HttpRoute {
        use api::http_route::{Filter, Rule, filter::Kind};
        let injector = |(status, message)| http::HttpFailureInjector {
            status,
            message,
            ratio: Some(http::Ratio { numerator: 1, denominator: 1 }),
        };
        let filter =
            refusal.map(|r| Filter { kind: Some(Kind::FailureInjector(injector(status_of(r)))) });
        let slash = http::PathMatch { kind: Some(http::path_match::Kind::Prefix("/".into())) };
        let rule = Rule {
            matches: vec![http::HttpRouteMatch { path: Some(slash), ..Default::default() }],
            filters: filter.into_iter().collect(),
            backends: Some(http_backends::build(backends)),
            ..Default::default()
        };
        api::HttpRoute { metadata: Some(metadata), hosts: Vec::new(), rules: vec![rule] }
    }

    fn take(route: api::HttpRoute) -> Result<Parts, Invalid> {
        use api::http_route::filter::Kind;
        no_hosts(&route.hosts)?;
        let rule = one(route.rules)?;
        let everything = |m: &http::HttpRouteMatch| {
            let path = m.path.as_ref().and_then(|p| p.kind.as_ref());
            let any_path = match path {
                None => m.path.is_none(),
                Some(kind) => *kind == http::path_match::Kind::Prefix("/".into()),
            };
            any_path && m.headers.is_empty() && m.query_params.is_empty() && m.method.is_none()
        };
        if !rule.matches.is_empty() && !rule.matches.iter().any(everything) {
            return Err(Invalid::Unsupported("a match on an outbound route"));
        }
        let refusal = match one_filter(rule.filters)?.map(|f| f.kind) {
            None => None,
            Some(Some(Kind::FailureInjector(f))) => {
                Some(refusal_of(f.status == FORBIDDEN, f.message))
            }
            Some(_) => return Err(Invalid::Unsupported("a filter on an outbound route")),
        };
        Ok(Parts {
            metadata: route.metadata,
            backends: http_backends::take(rule.backends)?,
            refusal,
        })
    }
}

impl Kind for GrpcKind {
    type Route = api::GrpcRoute;

    fn build(
        metadata: Metadata,
        backends: Vec<api::Backend>,
        refusal: Option<Refusal>,
    ) -> api::GrpcRoute {
        use api::grpc_route::{Filter, Rule, filter::Kind};
        let injector = |(status, message)| grpc::GrpcFailureInjector {
            // PERMISSION_DENIED and INTERNAL.
            code: if status == FORBIDDEN { 7 } else { 13 },
            message,
            ratio: Some(http::Ratio { numerator: 1, denominator: 1 }),
        };
        let filter =
            refusal.map(|r| Filter { kind: Some(Kind::FailureInjector(injector(status_of(r)))) });
        let rule = Rule {
            matches: vec![grpc::GrpcRouteMatch::default()],
            filters: filter.into_iter().collect(),
            backends: Some(grpc_backends::build(backends)),
            ..Default::default()
        };
        api::GrpcRoute { metadata: Some(metadata), hosts: Vec::new(), rules: vec![rule] }
    }

    fn take(route: api::GrpcRoute) -> Result<Parts, Invalid> {
        use api::grpc_route::filter::Kind;
        no_hosts(&route.hosts)?;
        let rule = one(route.rules)?;
        let everything = grpc::GrpcRouteMatch::default();
        if !rule.matches.is_empty() && !rule.matches.contains(&everything) {
            return Err(Invalid::Unsupported("a match on an outbound route"));
        }
        let refusal = match one_filter(rule.filters)?.map(|f| f.kind) {
            None => None,
            Some(Some(Kind::FailureInjector(f))) => Some(refusal_of(f.code == 7, f.message)),
            Some(_) => return Err(Invalid::Unsupported("a filter on an outbound route")),
        };
        Ok(Parts {
            metadata: route.metadata,
            backends: grpc_backends::take(rule.backends)?,
            refusal,
        })
    }
}

impl Kind for OpaqueKind {
    type Route = api::OpaqueRoute;

    fn build(
        metadata: Metadata,
        backends: Vec<api::Backend>,
        refusal: Option<Refusal>,
    ) -> api::OpaqueRoute {
        use api::opaque_route::{Filter, Rule, filter::Kind};
        let kind = refusal.map(|r| match r {
            Refusal::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
            Refusal::Invalid(message) => Kind::Invalid(opaque_route::Invalid { message }),
        });
        let rule = Rule {
            backends: Some(opaque_backends::build(backends)),
            filters: kind.into_iter().map(|k| Filter { kind: Some(k) }).collect(),
        };
        api::OpaqueRoute { metadata: Some(metadata), rules: vec![rule] }
    }

    fn take(route: api::OpaqueRoute) -> Result<Parts, Invalid> {
        use api::opaque_route::filter::Kind;
        let rule = one(route.rules)?;
        let refusal = match one_filter(rule.filters)?.map(|f| f.kind) {
            None => None,
            Some(Some(Kind::Forbidden(_))) => Some(Refusal::Forbidden),
            Some(Some(Kind::Invalid(f))) => Some(Refusal::Invalid(f.message)),
            Some(None) => return Err(Invalid::Unsupported("a filter on an outbound route")),
        };
        Ok(Parts {
            metadata: route.metadata,
            backends: opaque_backends::take(rule.backends)?,
            refusal,
        })
    }
}

impl Kind for TlsKind {
    type Route = api::TlsRoute;

    fn build(
        metadata: Metadata,
        backends: Vec<api::Backend>,
        refusal: Option<Refusal>,
    ) -> api::TlsRoute {
        use api::tls_route::{Filter, Rule, filter::Kind};
        let kind = refusal.map(|r| match r {
            Refusal::Forbidden => Kind::Forbidden(opaque_route::Forbidden {}),
            Refusal::Invalid(message) => Kind::Invalid(opaque_route::Invalid { message }),
        });
        let rule = Rule {
            backends: Some(tls_backends::build(backends)),
            filters: kind.into_iter().map(|k| Filter { kind: Some(k) }).collect(),
        };
        api::TlsRoute { metadata: Some(metadata), snis: Vec::new(), rules: vec![rule] }
    }

    fn take(route: api::TlsRoute) -> Result<Parts, Invalid> {
        use api::tls_route::filter::Kind;
        no_hosts(&route.snis)?;
        let rule = one(route.rules)?;
        let refusal = match one_filter(rule.filters)?.map(|f| f.kind) {
            None => None,
            Some(Some(Kind::Forbidden(_))) => Some(Refusal::Forbidden),
            Some(Some(Kind::Invalid(f))) => Some(Refusal::Invalid(f.message)),
            Some(None) => return Err(Invalid::Unsupported("a filter on an outbound route")),
        };
        Ok(Parts {
            metadata: route.metadata,
            backends: tls_backends::take(rule.backends)?,
            refusal,
        })
    }
}

const FORBIDDEN: u32 = 403;

fn status_of(refusal: Refusal) -> (u32, String) {
    match refusal {
        Refusal::Forbidden => (FORBIDDEN, "traffic not allowed".to_owned()),
        Refusal::Invalid(message) => (500, message),
    }
}

fn refusal_of(forbidden: bool, message: String) -> Refusal {
    if forbidden { Refusal::Forbidden } else { Refusal::Invalid(message) }
}

fn one<T>(rules: Vec<T>) -> Result<T, Invalid> {
    let mut rules = rules.into_iter();
    match (rules.next(), rules.next()) {
        (Some(rule), None) => Ok(rule),
        (None, _) => Err(Invalid::Missing("rule of a route")),
        (Some(_), Some(_)) => Err(Invalid::Unsupported("a route with several rules")),
    }
}

fn one_filter<T>(mut filters: Vec<T>) -> Result<Option<T>, Invalid> {
    match filters.len() {
        0 | 1 => Ok(filters.pop()),
        _ => Err(Invalid::Unsupported("several filters on an outbound route")),
    }
}

fn no_hosts<T>(hosts: &[T]) -> Result<(), Invalid> {
    match hosts.is_empty() {
        true => Ok(()),
        false => Err(Invalid::Unsupported("hosts on an outbound route")),
    }
}
