//! # Plan
//!
//! Job: the one decision about a destination: which protocol, and which backends for HTTP and for bytes,
//! given its profile and policy.
//! May touch: values. Must not touch: connections, clocks. Callers: `target`.

use crate::config::Routing;
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::Endpoint,
    meta::Meta,
    outbound::{
        Backend, BackendKind, OutboundPolicy, OutboundProtocol, OutboundRoute, PeakEwma,
        RouteAction,
    },
    profile::Profile,
};
use std::num::NonZeroU16;

/// What to do with traffic to a destination.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    pub(crate) http: Route,
    pub(crate) opaque: Route,
    /// The profile's name, if the profile routes HTTP: told to the peer.
    pub(crate) canonical: Option<NameAddr>,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Detect,
    Http1,
    Http2,
    Opaque,
}

/// Where traffic of one kind goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Route {
    /// The first that is available.
    First(Vec<Spec>),
    /// At random by weight, among those that are available.
    Split(Vec<(u32, Spec)>),
    /// There is none.
    None,
    /// Forbidden by policy.
    Forbidden(String),
    /// The policy cannot be used.
    Invalid(String),
}

/// A backend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spec {
    Balance { addr: NameAddr, ewma: PeakEwma },
    Forward(Endpoint),
}

pub(crate) fn plan(
    target: &Authority,
    profile: Option<&Profile>,
    policy: Option<&OutboundPolicy>,
    routing: Routing,
) -> Plan {
    let named = profile.and_then(|p| named(p, target.port()));
    let split = profile.and_then(split).filter(|_| named.is_some());
    let protocol = match policy.map(|p| &p.protocol) {
        _ if profile.is_some_and(|p| p.opaque) => Protocol::Opaque,
        // The mesh routes application TLS as bytes.
        Some(OutboundProtocol::Opaque(_) | OutboundProtocol::Tls(_)) => Protocol::Opaque,
        Some(OutboundProtocol::Http1(_)) => Protocol::Http1,
        Some(OutboundProtocol::Http2(_) | OutboundProtocol::Grpc(_)) => Protocol::Http2,
        Some(OutboundProtocol::Detect { .. }) | None => Protocol::Detect,
    };
    let own = |addr: NameAddr| Route::First(vec![Spec::balance(addr)]);
    let fallback = || synthesized(target, profile, named.clone());
    let by_profile = match routing {
        Routing::Sidecar => split.clone(),
        Routing::Gateway => split.clone().or_else(|| named.clone().map(own)),
    };
    let canonical = by_profile.as_ref().and(named.clone());
    let http = by_profile.unwrap_or_else(|| match (routing, policy) {
        (Routing::Sidecar, Some(policy)) => by_policy(policy.protocol.http_routes()),
        (Routing::Gateway, _) if profile.is_none_or(|p| p.endpoint.is_none()) => Route::None,
        _ => fallback(),
    });
    let opaque = split.unwrap_or_else(|| match policy {
        Some(policy) => by_policy(policy.protocol.opaque_routes()),
        None => fallback(),
    });
    Plan { protocol, http, opaque, canonical }
}

impl Spec {
    fn balance(addr: NameAddr) -> Self {
        Self::Balance { addr, ewma: PeakEwma::default() }
    }
}

/// The profile's own name with the port that was asked for.
fn named(profile: &Profile, port: u16) -> Option<NameAddr> {
    Some(NameAddr { name: profile.fqn.clone()?, port: NonZeroU16::new(port)? })
}

/// The profile's weighted targets. Weight 0 means unused; if nothing else is left, the profile's own name
/// serves.
fn split(profile: &Profile) -> Option<Route> {
    let targets = profile.targets.iter().filter(|t| t.weight > 0);
    let targets: Vec<_> = targets.map(|t| (t.weight, Spec::balance(t.addr.clone()))).collect();
    (!targets.is_empty()).then_some(Route::Split(targets))
}

/// Stands in for a policy that nobody has: the profile's endpoint, its Service, the name that was asked
/// for, or the address as it is.
fn synthesized(target: &Authority, profile: Option<&Profile>, named: Option<NameAddr>) -> Route {
    let spec = match (profile.and_then(|p| p.endpoint.clone()), named, target) {
        (Some(endpoint), ..) => Spec::Forward(endpoint),
        (None, Some(name), _) => Spec::balance(name),
        (None, None, Authority::Name(name)) => Spec::balance(name.clone()),
        (None, None, Authority::Socket(addr)) => original(*addr),
    };
    Route::First(vec![spec])
}

fn original(addr: std::net::SocketAddr) -> Spec {
    Spec::Forward(Endpoint { addr, metadata: Default::default() })
}

/// Default routes match everything: the first decides.
fn by_policy(routes: &[OutboundRoute]) -> Route {
    match routes.first().map(|r| (&r.action, &r.meta)) {
        None => Route::None,
        Some((RouteAction::Forbidden, meta)) => Route::Forbidden(describe(meta)),
        Some((RouteAction::Invalid(reason), _)) => Route::Invalid(reason.clone()),
        Some((RouteAction::FirstAvailable(backends), _)) => {
            Route::First(backends.iter().map(spec).collect())
        }
    }
}

fn spec(backend: &Backend) -> Spec {
    match &backend.kind {
        BackendKind::Forward(endpoint) => Spec::Forward(endpoint.clone()),
        BackendKind::OriginalDst(addr) => original(*addr),
        BackendKind::Balance { addr, ewma } => Spec::Balance { addr: addr.clone(), ewma: *ewma },
    }
}

fn describe(meta: &Meta) -> String {
    format!("{} {}", meta.kind(), meta.name())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mesh_model::profile::ProfileTarget;
    use std::{net::SocketAddr, sync::Arc, time::Duration};

    fn name(text: &str) -> NameAddr {
        text.parse().unwrap()
    }

    fn addr() -> SocketAddr {
        "10.0.0.1:80".parse().unwrap()
    }

    fn policy(kind: BackendKind) -> OutboundPolicy {
        let meta = Meta::built_in("test");
        let backend = Backend { meta: meta.clone(), kind };
        let action = RouteAction::FirstAvailable(vec![backend]);
        OutboundPolicy::detect(meta.clone(), Duration::from_secs(1), OutboundRoute { meta, action })
    }

    fn web() -> Profile {
        Profile { fqn: Some("web.shop.svc.cluster.local".parse().unwrap()), ..Profile::default() }
    }

    fn one(spec: Spec) -> Route {
        Route::First(vec![spec])
    }

    // proves: OUT-2
    #[test]
    fn without_policy_the_profile_or_the_original_destination_serves() {
        let target = Authority::Socket(addr());
        let of = |profile: Option<&Profile>| plan(&target, profile, None, Routing::Sidecar);
        assert_eq!(of(None).http, one(original(addr())));
        assert_eq!(of(None).opaque, one(original(addr())));
        let endpoint =
            Endpoint { addr: "10.9.9.9:8080".parse().unwrap(), metadata: Arc::default() };
        let profile = Profile { endpoint: Some(endpoint.clone()), ..Profile::default() };
        assert_eq!(of(Some(&profile)).opaque, one(Spec::Forward(endpoint)));
        let named = of(Some(&web()));
        assert_eq!(named.http, one(Spec::balance(name("web.shop.svc.cluster.local:80"))));
        assert_eq!(named.canonical, None);
    }

    // proves: OUT-2
    #[test]
    fn the_policy_routes_unless_the_profile_splits() {
        let target = Authority::Socket(addr());
        let policy =
            policy(BackendKind::Balance { addr: name("a.b:1"), ewma: PeakEwma::default() });
        let mut profile = web();
        let plain = plan(&target, Some(&profile), Some(&policy), Routing::Sidecar);
        assert_eq!(plain.http, one(Spec::balance(name("a.b:1"))));
        profile.targets = vec![
            ProfileTarget { addr: name("x.y:1"), weight: 0 },
            ProfileTarget { addr: name("z.y:1"), weight: 7 },
        ];
        let split = plan(&target, Some(&profile), Some(&policy), Routing::Sidecar);
        assert_eq!(split.http, Route::Split(vec![(7, Spec::balance(name("z.y:1")))]));
        assert_eq!(split.opaque, split.http);
        assert_eq!(split.canonical, Some(name("web.shop.svc.cluster.local:80")));
    }

    // proves: OUT-3
    #[test]
    fn a_gateway_follows_the_profile() {
        let target = Authority::Name(name("web.shop.svc.cluster.local:80"));
        let policy = policy(BackendKind::OriginalDst(addr()));
        let found = plan(&target, Some(&web()), Some(&policy), Routing::Gateway);
        assert_eq!(found.http, one(Spec::balance(name("web.shop.svc.cluster.local:80"))));
        assert!(found.canonical.is_some());
        let empty = Profile::default();
        assert_eq!(plan(&target, Some(&empty), None, Routing::Gateway).http, Route::None);
    }

    // proves: OUT-1
    #[test]
    fn the_profile_and_then_the_policy_decide_the_protocol() {
        let target = Authority::Socket(addr());
        let routes: Arc<[OutboundRoute]> = Arc::new([]);
        let of = |protocol, opaque| {
            let profile = Profile { opaque, ..Profile::default() };
            let policy = OutboundPolicy { parent: Meta::built_in("x"), protocol };
            plan(&target, Some(&profile), Some(&policy), Routing::Sidecar).protocol
        };
        assert_eq!(of(OutboundProtocol::Http1(routes.clone()), false), Protocol::Http1);
        assert_eq!(of(OutboundProtocol::Grpc(routes.clone()), false), Protocol::Http2);
        assert_eq!(of(OutboundProtocol::Opaque(routes.clone()), false), Protocol::Opaque);
        assert_eq!(of(OutboundProtocol::Http2(routes), true), Protocol::Opaque);
        assert_eq!(plan(&target, None, None, Routing::Sidecar).protocol, Protocol::Detect);
    }

    // proves: OUT-2
    #[test]
    fn policies_that_refuse_say_why() {
        let target = Authority::Socket(addr());
        let invalid = OutboundPolicy::invalid("bad regex", Duration::from_secs(1));
        let found = plan(&target, None, Some(&invalid), Routing::Sidecar);
        assert_eq!(found.http, Route::Invalid("bad regex".into()));
        assert_eq!(found.opaque, Route::Invalid("bad regex".into()));
    }
}
