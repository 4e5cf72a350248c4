//! # Outbound policies on the wire
//!
//! Job: `outbound.OutboundPolicy`, both ways, for policies whose routes have one rule without matches.
//! Timeouts, retries and breakers that come with one are not obeyed yet; hosts, matches, weights and
//! header filters make the policy unusable, since obeying the rest would send traffic astray.
//! Callers: the policy controller, `discover`.

mod kinds;

use crate::{
    Invalid, destination,
    error::{duration, proto_duration},
    meta,
};
use kinds::{GrpcKind, HttpKind, Kind as RouteKind, OpaqueKind, TlsKind};
use linkerd2_proxy_api::{destination as api_destination, outbound as api};
use mesh_model::{
    authority::NameAddr,
    endpoint::DEFAULT_WEIGHT,
    outbound::{
        Backend, BackendKind, OutboundPolicy, OutboundProtocol, OutboundRoute, PeakEwma,
        RouteAction,
    },
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Requests that may wait for a backend.
const QUEUE_CAPACITY: u32 = 100;
/// How long they may.
const FAILFAST: Duration = Duration::from_secs(3);
/// How long a client sniffs where an unusable message gives no timeout.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A policy as a message.
pub fn to_proto(policy: &OutboundPolicy) -> api::OutboundPolicy {
    use api::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let kind = match &policy.protocol {
        OutboundProtocol::Detect { timeout, http, opaque } => Kind::Detect(Detect {
            timeout: Some(proto_duration(*timeout)),
            opaque: Some(Opaque { routes: routes_to_proto::<OpaqueKind>(opaque) }),
            http1: Some(Http1 { routes: routes_to_proto::<HttpKind>(http), failure_accrual: None }),
            http2: Some(Http2 { routes: routes_to_proto::<HttpKind>(http), failure_accrual: None }),
        }),
        OutboundProtocol::Http1(routes) => Kind::Http1(Http1 {
            routes: routes_to_proto::<HttpKind>(routes),
            failure_accrual: None,
        }),
        OutboundProtocol::Http2(routes) => Kind::Http2(Http2 {
            routes: routes_to_proto::<HttpKind>(routes),
            failure_accrual: None,
        }),
        OutboundProtocol::Grpc(routes) => {
            Kind::Grpc(Grpc { routes: routes_to_proto::<GrpcKind>(routes), failure_accrual: None })
        }
        OutboundProtocol::Opaque(routes) => {
            Kind::Opaque(Opaque { routes: routes_to_proto::<OpaqueKind>(routes) })
        }
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
        Err(reason) => {
            let text = format!("invalid client policy: {reason}");
            (OutboundPolicy::invalid(&text, DETECT_TIMEOUT), Some(reason))
        }
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
            let http1 = detect.http1.ok_or(Invalid::Missing("HTTP/1 routes"))?;
            let http2 = detect.http2.ok_or(Invalid::Missing("HTTP/2 routes"))?;
            let http = routes_from_proto::<HttpKind>(http1.routes)?;
            if http != routes_from_proto::<HttpKind>(http2.routes)? {
                return Err(Invalid::Unsupported("routes that differ between HTTP/1 and HTTP/2"));
            }
            OutboundProtocol::Detect {
                timeout: duration("detection timeout", detect.timeout)?,
                http,
                opaque: routes_from_proto::<OpaqueKind>(opaque.routes)?,
            }
        }
        Kind::Http1(http) => OutboundProtocol::Http1(routes_from_proto::<HttpKind>(http.routes)?),
        Kind::Http2(http) => OutboundProtocol::Http2(routes_from_proto::<HttpKind>(http.routes)?),
        Kind::Grpc(grpc) => OutboundProtocol::Grpc(routes_from_proto::<GrpcKind>(grpc.routes)?),
        Kind::Opaque(opaque) => {
            OutboundProtocol::Opaque(routes_from_proto::<OpaqueKind>(opaque.routes)?)
        }
        Kind::Tls(tls) => OutboundProtocol::Tls(routes_from_proto::<TlsKind>(tls.routes)?),
    };
    Ok(OutboundPolicy { parent, protocol })
}

// === routes ===

fn routes_to_proto<K: RouteKind>(routes: &[OutboundRoute]) -> Vec<K::Route> {
    let route = |r: &OutboundRoute| {
        let (backends, filter) = match &r.action {
            RouteAction::FirstAvailable(backends) => {
                (backends.iter().map(backend_to_proto).collect(), None)
            }
            RouteAction::Forbidden => (Vec::new(), Some(kinds::Refusal::Forbidden)),
            RouteAction::Invalid(why) => (Vec::new(), Some(kinds::Refusal::Invalid(why.clone()))),
        };
        K::build(meta::to_proto(&r.meta), backends, filter)
    };
    routes.iter().map(route).collect()
}

fn routes_from_proto<K: RouteKind>(routes: Vec<K::Route>) -> Result<Arc<[OutboundRoute]>, Invalid> {
    let route = |r: K::Route| {
        let kinds::Parts { metadata, backends, refusal } = K::take(r)?;
        let action = match refusal {
            Some(kinds::Refusal::Forbidden) => RouteAction::Forbidden,
            Some(kinds::Refusal::Invalid(why)) => RouteAction::Invalid(why),
            None => RouteAction::FirstAvailable(
                backends.into_iter().map(backend_from_proto).collect::<Result<_, _>>()?,
            ),
        };
        Ok(OutboundRoute { meta: meta::from_proto("route metadata", metadata)?, action })
    };
    routes.into_iter().map(route).collect()
}

// === backends ===

fn backend_to_proto(backend: &Backend) -> api::Backend {
    use api::backend::{
        BalanceP2c, EndpointDiscovery, Kind,
        balance_p2c::{Load, PeakEwma},
        endpoint_discovery::{DestinationGet, Kind as Discovery},
    };
    let kind = match &backend.kind {
        BackendKind::Forward(endpoint) => Kind::Forward(destination::endpoint_to_proto(endpoint)),
        BackendKind::OriginalDst(addr) => Kind::Forward(api_destination::WeightedAddr {
            addr: Some((*addr).into()),
            weight: 1,
            ..Default::default()
        }),
        BackendKind::Balance { addr, ewma } => Kind::Balancer(BalanceP2c {
            discovery: Some(EndpointDiscovery {
                kind: Some(Discovery::Dst(DestinationGet { path: addr.to_string() })),
            }),
            load: Some(Load::PeakEwma(PeakEwma {
                default_rtt: Some(proto_duration(ewma.default_rtt)),
                decay: Some(proto_duration(ewma.decay)),
            })),
        }),
    };
    api::Backend {
        metadata: Some(meta::to_proto(&backend.meta)),
        queue: Some(api::Queue {
            capacity: QUEUE_CAPACITY,
            failfast_timeout: Some(proto_duration(FAILFAST)),
        }),
        kind: Some(kind),
    }
}

fn backend_from_proto(backend: api::Backend) -> Result<Backend, Invalid> {
    use api::backend::{Kind, balance_p2c::Load, endpoint_discovery::Kind as Discovery};
    let kind = match backend.kind.ok_or(Invalid::Missing("backend"))? {
        Kind::Forward(addr) => forward_from_proto(addr)?,
        Kind::Balancer(balancer) => {
            let discovery = balancer.discovery.and_then(|d| d.kind);
            let Discovery::Dst(dst) = discovery.ok_or(Invalid::Missing("backend discovery"))?;
            let addr: NameAddr =
                dst.path.parse().map_err(|e| Invalid::value("backend discovery", e))?;
            let (rtt, decay) = match balancer.load.ok_or(Invalid::Missing("balancer load"))? {
                Load::PeakEwma(load) => (load.default_rtt, load.decay),
                // The penalty for failures is not known yet; the plain estimate serves.
                Load::PenaltyPeakEwma(load) => (load.default_rtt, load.decay),
            };
            let ewma = PeakEwma {
                default_rtt: duration("balancer default_rtt", rtt)?,
                decay: duration("balancer decay", decay)?,
            };
            BackendKind::Balance { addr, ewma }
        }
    };
    Ok(Backend { meta: meta::from_proto("backend metadata", backend.metadata)?, kind })
}

/// An address of which nothing else is said is the original destination, in plaintext.
fn forward_from_proto(addr: api_destination::WeightedAddr) -> Result<BackendKind, Invalid> {
    let weight = addr.weight;
    let endpoint = destination::endpoint_from_proto(addr, &BTreeMap::new())?;
    let bare = mesh_model::endpoint::EndpointMetadata { weight, ..Default::default() };
    if weight != DEFAULT_WEIGHT && *endpoint.metadata == bare {
        return Ok(BackendKind::OriginalDst(endpoint.addr));
    }
    Ok(BackendKind::Forward(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn policies_round_trip(policy in strategies::outbound_policy()) {
            prop_assert_eq!(from_proto(to_proto(&policy)), Ok(policy));
        }
    }

    fn detect(policy: &mut api::OutboundPolicy) -> &mut api::proxy_protocol::Detect {
        match policy.protocol.as_mut().unwrap().kind.as_mut().unwrap() {
            api::proxy_protocol::Kind::Detect(detect) => detect,
            other => panic!("expected detection, not {other:?}"),
        }
    }

    // proves: POL-3
    #[test]
    fn an_unusable_message_fails_everything() {
        use mesh_model::outbound::Synthesized;
        let fallback = Synthesized::Fallback("10.0.0.1:80".parse().unwrap());
        let good = to_proto(&OutboundPolicy::synthesized(fallback, DETECT_TIMEOUT));
        let mut hosts = good.clone();
        for http in [0, 1] {
            let detect = detect(&mut hosts);
            let routes = match http {
                0 => &mut detect.http1.as_mut().unwrap().routes,
                _ => &mut detect.http2.as_mut().unwrap().routes,
            };
            routes[0].hosts.push(Default::default());
        }
        let mut unlike = good.clone();
        detect(&mut unlike).http2.as_mut().unwrap().routes.clear();
        let mut two_rules = good.clone();
        let opaque = &mut detect(&mut two_rules).opaque.as_mut().unwrap().routes[0];
        opaque.rules.push(opaque.rules[0].clone());
        let mut negative = good.clone();
        detect(&mut negative).timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let nothing = api::OutboundPolicy { protocol: None, ..good };
        for bad in [hosts, unlike, two_rules, negative, nothing] {
            let (policy, problem) = received(bad);
            assert!(problem.is_some());
            let routes = policy.protocol.http_routes();
            assert!(
                matches!(&routes[0].action, RouteAction::Invalid(why) if why.contains("invalid client policy"))
            );
            assert_eq!(policy.protocol.opaque_routes(), routes);
        }
    }
}
