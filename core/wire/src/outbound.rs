//! # Outbound policies on the wire
//!
//! Job: `outbound.OutboundPolicy`, both ways.
//! Must not touch: traffic. Callers: the policy controller, `discover`.

mod accrual;
mod backend;
mod kinds;
mod rules;

use crate::{
    Invalid,
    error::{duration, proto_duration},
    meta,
};
use kinds::{GrpcKind, HttpKind, Kind as RouteKind, OpaqueKind, TlsKind};
use linkerd2_proxy_api::outbound as api;
use mesh_model::outbound::{HttpPolicy, OutboundPolicy, OutboundProtocol, OutboundRoute, Refusal};
use std::{sync::Arc, time::Duration};

/// How long a client sniffs where an unusable message gives no timeout.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A policy as a message. A route that its kind of message cannot express becomes one that refuses.
pub fn to_proto(policy: &OutboundPolicy) -> api::OutboundPolicy {
    use api::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let accrual = |http: &HttpPolicy| http.accrual.as_ref().map(accrual::to_proto);
    let http1 = |http: &HttpPolicy| Http1 {
        routes: routes_to_proto::<HttpKind>(&http.routes),
        failure_accrual: accrual(http),
    };
    let http2 = |http: &HttpPolicy| Http2 {
        routes: routes_to_proto::<HttpKind>(&http.routes),
        failure_accrual: accrual(http),
    };
    let opaque =
        |routes: &[OutboundRoute]| Opaque { routes: routes_to_proto::<OpaqueKind>(routes) };
    let kind = match &policy.protocol {
        OutboundProtocol::Detect { timeout, http1: one, http2: two, opaque: bytes } => {
            Kind::Detect(Detect {
                timeout: Some(proto_duration(*timeout)),
                opaque: Some(opaque(bytes)),
                http1: Some(http1(one)),
                http2: Some(http2(two)),
            })
        }
        OutboundProtocol::Http1(http) => Kind::Http1(http1(http)),
        OutboundProtocol::Http2(http) => Kind::Http2(http2(http)),
        OutboundProtocol::Grpc(http) => Kind::Grpc(Grpc {
            routes: routes_to_proto::<GrpcKind>(&http.routes),
            failure_accrual: accrual(http),
        }),
        OutboundProtocol::Opaque(routes) => Kind::Opaque(opaque(routes)),
        OutboundProtocol::Tls(routes) => {
            Kind::Tls(Tls { routes: routes_to_proto::<TlsKind>(routes) })
        }
    };
    api::OutboundPolicy {
        protocol: Some(api::ProxyProtocol { kind: Some(kind) }),
        metadata: Some(meta::to_proto(&policy.parent)),
    }
}

/// The policy that a proxy obeys when the controller sends this: where the message cannot be used, one
/// that fails everything with the reason.
pub fn received(policy: api::OutboundPolicy) -> (OutboundPolicy, Option<Invalid>) {
    match from_proto(policy) {
        Ok(policy) => (policy, None),
        Err(reason) => (OutboundPolicy::invalid(&reason.to_string(), DETECT_TIMEOUT), Some(reason)),
    }
}

/// A message as a policy.
///
/// # Errors
/// When any part is missing, malformed or not supported.
pub fn from_proto(policy: api::OutboundPolicy) -> Result<OutboundPolicy, Invalid> {
    use api::proxy_protocol::Kind;
    let parent = meta::from_proto("policy metadata", policy.metadata)?;
    let kind = policy.protocol.and_then(|p| p.kind).ok_or(Invalid::Missing("protocol"))?;
    let protocol = match kind {
        Kind::Detect(detect) => {
            let opaque = detect.opaque.ok_or(Invalid::Missing("opaque routes"))?;
            let one = detect.http1.ok_or(Invalid::Missing("HTTP/1 routes"))?;
            let two = detect.http2.ok_or(Invalid::Missing("HTTP/2 routes"))?;
            let http1 = http::<HttpKind>(one.routes, one.failure_accrual)?;
            let http2 = http::<HttpKind>(two.routes, two.failure_accrual)?;
            // The usual case is told twice, and kept once.
            let http2 = if http1 == http2 { http1.clone() } else { http2 };
            let opaque = routes_from_proto::<OpaqueKind>(opaque.routes)?;
            let timeout = duration("detection timeout", detect.timeout)?;
            OutboundProtocol::Detect { timeout, http1, http2, opaque }
        }
        Kind::Http1(p) => OutboundProtocol::Http1(http::<HttpKind>(p.routes, p.failure_accrual)?),
        Kind::Http2(p) => OutboundProtocol::Http2(http::<HttpKind>(p.routes, p.failure_accrual)?),
        Kind::Grpc(p) => OutboundProtocol::Grpc(http::<GrpcKind>(p.routes, p.failure_accrual)?),
        Kind::Opaque(p) => OutboundProtocol::Opaque(routes_from_proto::<OpaqueKind>(p.routes)?),
        Kind::Tls(p) => OutboundProtocol::Tls(routes_from_proto::<TlsKind>(p.routes)?),
    };
    Ok(OutboundPolicy { parent, protocol })
}

fn http<K: RouteKind>(
    routes: Vec<K::Route>,
    accrual: Option<api::FailureAccrual>,
) -> Result<HttpPolicy, Invalid> {
    let accrual = accrual.map(accrual::from_proto).transpose()?.flatten();
    Ok(HttpPolicy { routes: routes_from_proto::<K>(routes)?, accrual })
}

fn routes_to_proto<K: RouteKind>(routes: &[OutboundRoute]) -> Vec<K::Route> {
    let route = |route: &OutboundRoute| {
        K::build(route).or_else(|reason| {
            tracing::warn!(route = route.meta.name(), %reason, "The route refuses instead");
            let refusal = Refusal::Invalid(reason.to_string());
            K::build(&OutboundRoute::refusing(route.meta.clone(), refusal))
        })
    };
    // Every kind can express a refusal.
    routes.iter().filter_map(|r| route(r).ok()).collect()
}

fn routes_from_proto<K: RouteKind>(routes: Vec<K::Route>) -> Result<Arc<[OutboundRoute]>, Invalid> {
    if K::ONE_ROUTE && routes.len() > 1 {
        return Err(Invalid::Unsupported("a policy for bytes with several routes"));
    }
    routes.into_iter().map(K::take).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
