//! # Plan
//!
//! Job: the one decision about a destination: which protocol, and which routes for HTTP and for connections,
//! given its profile and policy.
//! May touch: values. Must not touch: connections, clocks. Callers: `target`.

use crate::config::Routing;
use mesh_model::{
    authority::{Authority, NameAddr},
    balance::Balancing,
    meta::Meta,
    outbound::{
        Backend, BackendKind, Distribution, HttpPolicy, OutboundPolicy, OutboundProtocol,
        OutboundRoute, OutboundRule, RouteBackend,
    },
    profile::Profile,
};
use std::{num::NonZeroU16, sync::Arc};

/// What to do with traffic to a destination.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    /// Whose routes these are.
    pub(crate) parent: Meta,
    /// Requests of HTTP/1 and of HTTP/2.
    pub(crate) http: [HttpPolicy; 2],
    /// Routes of connections: of bytes, or of TLS if that is the protocol.
    pub(crate) connections: Arc<[OutboundRoute]>,
    /// The profile's name, if the profile routes HTTP: told to the peer.
    pub(crate) canonical: Option<NameAddr>,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Detect,
    Http1,
    Http2,
    Grpc,
    Opaque,
    Tls,
}

pub(crate) fn plan(
    target: &Authority,
    profile: Option<&Profile>,
    policy: Option<&OutboundPolicy>,
    routing: Routing,
) -> Plan {
    use OutboundProtocol as P;
    let restricted = policy.filter(|_| routing == Routing::Gateway).map(to_names);
    let policy = restricted.as_ref().or(policy);
    let protocol = protocol(profile, policy);
    let named = profile.and_then(|p| named(p, target.port()));
    let split = profile.and_then(split).filter(|_| named.is_some());
    let fallback = || routes(synthesized(target, profile, named.clone()));
    let by_profile = match (&named, profile) {
        (Some(name), Some(profile)) => {
            // A gateway that hears of no policy still knows whom the peer named.
            let alone = routing == Routing::Gateway && policy.is_none();
            let follows = profile.routes_http() || alone;
            follows.then(|| split.clone().unwrap_or_else(|| own(name)))
        }
        _ => None,
    };
    let canonical = by_profile.as_ref().and(named.clone());
    let http = match (by_profile, routing, policy) {
        (Some(route), ..) => both(routes(route)),
        (None, _, Some(policy)) if routing == Routing::Sidecar || named.is_some() => {
            match policy.protocol.http() {
                Some((http1, http2)) => [http1.clone(), http2.clone()],
                None => Default::default(),
            }
        }
        (None, Routing::Gateway, _) if profile.is_none_or(|p| p.endpoint.is_none()) => {
            Default::default()
        }
        _ => both(fallback()),
    };
    let connections = match (split, policy) {
        // The name that a TLS client asks for is the policy's to judge.
        (Some(split), _) if protocol != Protocol::Tls => routes(split),
        // Opaque by its profile alone: the policy knows of requests only.
        (_, Some(OutboundPolicy { protocol: P::Http1(_) | P::Http2(_) | P::Grpc(_), .. }))
            if protocol == Protocol::Opaque =>
        {
            fallback()
        }
        (_, Some(policy)) => policy.protocol.opaque_routes().into(),
        (_, None) => fallback(),
    };
    let parent = policy.map(|p| p.parent.clone());
    let parent = parent.or_else(|| profile.and_then(|p| p.parent.clone()));
    let parent = parent.unwrap_or_else(|| Meta::built_in("fallback"));
    Plan { protocol, parent, http, connections, canonical }
}

fn protocol(profile: Option<&Profile>, policy: Option<&OutboundPolicy>) -> Protocol {
    match policy.map(|p| &p.protocol) {
        _ if profile.is_some_and(|p| p.opaque) => Protocol::Opaque,
        Some(OutboundProtocol::Opaque(_)) => Protocol::Opaque,
        Some(OutboundProtocol::Tls(_)) => Protocol::Tls,
        Some(OutboundProtocol::Http1(_)) => Protocol::Http1,
        Some(OutboundProtocol::Http2(_)) => Protocol::Http2,
        Some(OutboundProtocol::Grpc(_)) => Protocol::Grpc,
        Some(OutboundProtocol::Detect { .. }) | None => Protocol::Detect,
    }
}

fn routes(route: OutboundRoute) -> Arc<[OutboundRoute]> {
    Arc::new([route])
}

fn both(routes: Arc<[OutboundRoute]>) -> [HttpPolicy; 2] {
    [routes.clone().into(), routes.into()]
}

fn balance(addr: &NameAddr) -> Backend {
    let kind = BackendKind::Balance { addr: addr.clone(), balancing: Balancing::default() };
    Backend::new(Meta::built_in("profile"), kind)
}

/// The policy without ways to anything but names: who is exported is known of names, and peers of other
/// clusters are to reach nothing else.
fn to_names(policy: &OutboundPolicy) -> OutboundPolicy {
    let mut policy = policy.clone();
    for list in policy.protocol.routes_mut() {
        let rules = Arc::make_mut(list).iter_mut().flat_map(|route| &mut route.rules);
        for backend in rules.flat_map(|rule| rule.backends.backends_mut()) {
            if let BackendKind::Forward(_) | BackendKind::OriginalDst(_) = backend.backend.kind {
                backend.backend.kind = BackendKind::Unknown;
            }
        }
    }
    policy
}

/// The profile's own name with the port that was asked for.
fn named(profile: &Profile, port: u16) -> Option<NameAddr> {
    Some(NameAddr { name: profile.fqn.clone()?, port: NonZeroU16::new(port)? })
}

/// To the name itself.
fn own(name: &NameAddr) -> OutboundRoute {
    OutboundRoute::to(Meta::built_in("profile"), balance(name))
}

/// The profile's weighted targets. Weight 0 means unused; if nothing else is left, the profile's own name
/// serves.
fn split(profile: &Profile) -> Option<OutboundRoute> {
    let targets = profile.targets.iter().filter(|t| t.weight > 0);
    let targets: Vec<_> =
        targets.map(|t| (t.weight, RouteBackend::from(balance(&t.addr)))).collect();
    let backends = Distribution::Random(targets.clone());
    let rule = OutboundRule { backends, ..OutboundRule::default() };
    (!targets.is_empty()).then(|| OutboundRoute::one(Meta::built_in("profile"), rule))
}

/// Stands in for a policy that nobody has: the profile's endpoint, its Service, the name that was asked
/// for, or the address as it is.
fn synthesized(
    target: &Authority,
    profile: Option<&Profile>,
    named: Option<NameAddr>,
) -> OutboundRoute {
    let (name, kind) = match (profile.and_then(|p| p.endpoint.clone()), named, target) {
        (Some(endpoint), ..) => ("endpoint", BackendKind::Forward(endpoint)),
        (None, Some(name), _) => return own(&name),
        (None, None, Authority::Name(name)) => return own(name),
        (None, None, Authority::Socket(addr)) => ("fallback", BackendKind::OriginalDst(*addr)),
    };
    let meta = Meta::built_in(name);
    OutboundRoute::to(meta.clone(), Backend::new(meta, kind))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mesh_model::{endpoint::Endpoint, outbound::Refusal, profile::ProfileTarget};
    use std::{net::SocketAddr, time::Duration};

    fn name(text: &str) -> NameAddr {
        text.parse().unwrap()
    }

    fn addr() -> SocketAddr {
        "10.0.0.1:80".parse().unwrap()
    }

    fn policy(kind: BackendKind) -> OutboundPolicy {
        let meta = Meta::built_in("test");
        let route = OutboundRoute::to(meta.clone(), Backend::new(meta.clone(), kind));
        OutboundPolicy::detect(meta, Duration::from_secs(1), route)
    }

    fn web() -> Profile {
        Profile { fqn: Some("web.shop.svc.cluster.local".parse().unwrap()), ..Profile::default() }
    }

    /// What is reached, with weights.
    fn reached(routes: &[OutboundRoute]) -> Vec<(u32, BackendKind)> {
        let [route] = routes else { return Vec::new() };
        match &route.rules[0].backends {
            Distribution::Empty => Vec::new(),
            Distribution::First(list) => list.iter().map(|b| (0, b.backend.kind.clone())).collect(),
            Distribution::Random(list) => {
                list.iter().map(|(w, b)| (*w, b.backend.kind.clone())).collect()
            }
        }
    }

    // proves: GW-10
    #[test]
    fn a_gateway_takes_no_route_to_an_address() {
        let endpoint = Endpoint { addr: addr(), metadata: Arc::default() };
        let target = Authority::Name(name("web.shop.svc.cluster.local:80"));
        for kind in [BackendKind::Forward(endpoint), BackendKind::OriginalDst(addr())] {
            for (routing, reached_by) in
                [(Routing::Sidecar, kind.clone()), (Routing::Gateway, BackendKind::Unknown)]
            {
                let plan = plan(&target, Some(&web()), Some(&policy(kind.clone())), routing);
                for routes in [&plan.http[0].routes, &plan.http[1].routes, &plan.connections] {
                    assert_eq!(reached(routes), [(0, reached_by.clone())]);
                }
            }
        }
    }

    fn to(addr: &str) -> BackendKind {
        balance(&name(addr)).kind
    }

    // proves: OUT-2
    #[test]
    fn without_policy_the_profile_or_the_original_destination_serves() {
        let target = Authority::Socket(addr());
        let of = |profile: Option<&Profile>| plan(&target, profile, None, Routing::Sidecar);
        let original = [(0, BackendKind::OriginalDst(addr()))];
        assert_eq!(reached(&of(None).http[0].routes), original);
        assert_eq!(reached(&of(None).connections), original);
        let endpoint =
            Endpoint { addr: "10.9.9.9:8080".parse().unwrap(), metadata: Arc::default() };
        let profile = Profile { endpoint: Some(endpoint.clone()), ..Profile::default() };
        assert_eq!(reached(&of(Some(&profile)).connections), [(0, BackendKind::Forward(endpoint))]);
        let named = of(Some(&web()));
        assert_eq!(reached(&named.http[1].routes), [(0, to("web.shop.svc.cluster.local:80"))]);
        assert_eq!(named.canonical, None);
    }

    // proves: OUT-2
    #[test]
    fn the_policy_routes_unless_the_profile_splits() {
        let target = Authority::Socket(addr());
        let policy = policy(to("a.b:1"));
        let mut profile = web();
        let plain = plan(&target, Some(&profile), Some(&policy), Routing::Sidecar);
        assert_eq!(reached(&plain.http[0].routes), [(0, to("a.b:1"))]);
        profile.targets = vec![
            ProfileTarget { addr: name("x.y:1"), weight: 0 },
            ProfileTarget { addr: name("z.y:1"), weight: 7 },
        ];
        let split = plan(&target, Some(&profile), Some(&policy), Routing::Sidecar);
        assert_eq!(reached(&split.http[0].routes), [(7, to("z.y:1"))]);
        assert_eq!(split.connections, split.http[0].routes);
        assert_eq!(split.canonical, Some(name("web.shop.svc.cluster.local:80")));
        let tls = OutboundPolicy {
            protocol: OutboundProtocol::Tls(policy.protocol.opaque_routes().into()),
            ..policy
        };
        let tls = plan(&target, Some(&profile), Some(&tls), Routing::Sidecar);
        assert_eq!(reached(&tls.connections), [(0, to("a.b:1"))], "TLS never follows the profile");
    }

    // proves: OUT-3
    #[test]
    fn a_gateway_follows_the_policy_unless_the_profile_has_more_to_say() {
        let target = Authority::Name(name("web.shop.svc.cluster.local:80"));
        let policy = policy(to("a.b:1"));
        let alone = plan(&target, Some(&web()), None, Routing::Gateway);
        assert_eq!(reached(&alone.http[0].routes), [(0, to("web.shop.svc.cluster.local:80"))]);
        assert!(alone.canonical.is_some());
        let found = plan(&target, Some(&web()), Some(&policy), Routing::Gateway);
        let same = plan(&target, Some(&web()), Some(&policy), Routing::Sidecar);
        assert_eq!(reached(&found.http[0].routes), reached(&same.http[0].routes));
        assert_eq!(found.canonical, None);
        let nameless = plan(&target, Some(&Profile::default()), Some(&policy), Routing::Gateway);
        assert!(nameless.http[0].routes.is_empty(), "a gateway forwards to names alone");
        let empty = Profile::default();
        assert!(plan(&target, Some(&empty), None, Routing::Gateway).http[0].routes.is_empty());
    }

    // proves: OUT-1
    #[test]
    fn the_profile_and_then_the_policy_decide_the_protocol() {
        let target = Authority::Socket(addr());
        let http = HttpPolicy::default;
        let of = |protocol, opaque| {
            let profile = Profile { opaque, ..Profile::default() };
            let policy = OutboundPolicy { parent: Meta::built_in("x"), protocol };
            plan(&target, Some(&profile), Some(&policy), Routing::Sidecar).protocol
        };
        assert_eq!(of(OutboundProtocol::Http1(http()), false), Protocol::Http1);
        assert_eq!(of(OutboundProtocol::Grpc(http()), false), Protocol::Grpc);
        assert_eq!(of(OutboundProtocol::Tls(Arc::new([])), false), Protocol::Tls);
        assert_eq!(of(OutboundProtocol::Http2(http()), true), Protocol::Opaque);
        assert_eq!(plan(&target, None, None, Routing::Sidecar).protocol, Protocol::Detect);
    }

    // proves: OUT-1
    #[test]
    fn an_opaque_profile_is_carried_though_the_policy_speaks_http() {
        let target = Authority::Socket(addr());
        let policy = OutboundPolicy {
            parent: Meta::built_in("x"),
            protocol: OutboundProtocol::Http1(HttpPolicy::default()),
        };
        let profile = Profile { opaque: true, ..web() };
        let found = plan(&target, Some(&profile), Some(&policy), Routing::Sidecar);
        assert_eq!(found.protocol, Protocol::Opaque);
        assert_eq!(reached(&found.connections), [(0, to("web.shop.svc.cluster.local:80"))]);
    }

    // proves: OUT-2
    #[test]
    fn policies_that_refuse_say_why() {
        let target = Authority::Socket(addr());
        let invalid = OutboundPolicy::invalid("bad regex", Duration::from_secs(1));
        let found = plan(&target, None, Some(&invalid), Routing::Sidecar);
        for routes in [&found.http[0].routes, &found.connections] {
            let refusal = Some(Refusal::Invalid("bad regex".into()));
            assert_eq!(routes[0].rules[0].refusal, refusal);
        }
    }
}
