//! # Inbound policies on the wire
//!
//! Job: `inbound.Server`, both ways. Filters and rate limits of routes are not known yet: a route with a
//! filter makes the policy unusable rather than obeyed in part; a rate limit is not enforced.
//! Callers: the policy controller, `discover`.

use crate::{
    Invalid,
    error::{duration, proto_duration},
    meta, route,
};
use ipnet::IpNet;
use linkerd2_proxy_api::{inbound as api, net};
use mesh_model::{
    inbound::{
        Authentication, Authorization, DETECT_TIMEOUT, IdentityMatch, InboundRoute, NetworkMatch,
        ServerPolicy, ServerProtocol,
    },
    meta::Meta,
};
use std::sync::Arc;

/// A policy as a message.
///
/// # Errors
/// When a match has no place in its route's kind; policies built from our own tables have none such.
pub fn to_proto(policy: &ServerPolicy) -> Result<api::Server, Invalid> {
    use api::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let http = |routes: &[InboundRoute]| routes.iter().map(http_to_proto).collect::<Result<_, _>>();
    let kind = match &policy.protocol {
        ServerProtocol::Detect { http: routes, timeout } => Kind::Detect(Detect {
            timeout: Some(proto_duration(*timeout)),
            http_routes: http(routes)?,
            http_local_rate_limit: None,
        }),
        ServerProtocol::Http1(routes) => {
            Kind::Http1(Http1 { routes: http(routes)?, local_rate_limit: None })
        }
        ServerProtocol::Http2(routes) => {
            Kind::Http2(Http2 { routes: http(routes)?, local_rate_limit: None })
        }
        ServerProtocol::Grpc(routes) => {
            let routes = routes.iter().map(grpc_to_proto).collect::<Result<_, _>>()?;
            Kind::Grpc(Grpc { routes })
        }
        ServerProtocol::Opaque => Kind::Opaque(Opaque {}),
        ServerProtocol::Tls => Kind::Tls(Tls {}),
    };
    Ok(api::Server {
        protocol: Some(api::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: policy.authorizations.iter().map(authorization_to_proto).collect(),
        labels: meta::to_labels(&policy.meta),
    })
}

/// The policy that a proxy obeys when the controller sends this: with loopback allowed, and, where the
/// message cannot be used, the policy named `invalid` that lets nobody in, with the reason.
pub fn received(server: api::Server) -> (ServerPolicy, Option<Invalid>) {
    match from_proto(server) {
        Ok(policy) => (policy.with_localhost(), None),
        Err(reason) => {
            let policy = ServerPolicy {
                meta: Meta::built_in("invalid"),
                protocol: ServerProtocol::Detect {
                    http: Arc::new([InboundRoute::fallback()]),
                    timeout: DETECT_TIMEOUT,
                },
                authorizations: Arc::new([]),
            };
            (policy, Some(reason))
        }
    }
}

/// A message as the policy that it says, nothing added.
///
/// # Errors
/// When any part is missing, malformed or not supported.
pub fn from_proto(server: api::Server) -> Result<ServerPolicy, Invalid> {
    use api::proxy_protocol::Kind;
    let kind = server.protocol.and_then(|p| p.kind).ok_or(Invalid::Missing("protocol"))?;
    let http = |routes: Vec<api::HttpRoute>| {
        routes.into_iter().map(http_from_proto).collect::<Result<Arc<[_]>, _>>()
    };
    let protocol = match kind {
        Kind::Detect(detect) => ServerProtocol::Detect {
            http: http(detect.http_routes)?,
            timeout: duration("detection timeout", detect.timeout)?,
        },
        Kind::Http1(http1) => ServerProtocol::Http1(http(http1.routes)?),
        Kind::Http2(http2) => ServerProtocol::Http2(http(http2.routes)?),
        Kind::Grpc(grpc) => ServerProtocol::Grpc(
            grpc.routes.into_iter().map(grpc_from_proto).collect::<Result<_, _>>()?,
        ),
        Kind::Opaque(_) => ServerProtocol::Opaque,
        Kind::Tls(_) => ServerProtocol::Tls,
    };
    Ok(ServerPolicy {
        meta: meta::from_labels("server labels", server.labels)?,
        protocol,
        authorizations: authorizations_from_proto(server.authorizations)?,
    })
}

// === routes ===

fn http_to_proto(r: &InboundRoute) -> Result<api::HttpRoute, Invalid> {
    let rule = |matches: &Vec<_>| {
        let matches = matches.iter().map(route::match_to_proto).collect::<Result<_, _>>()?;
        Ok(api::http_route::Rule { matches, filters: Vec::new() })
    };
    Ok(api::HttpRoute {
        metadata: Some(meta::to_proto(&r.meta)),
        hosts: r.hosts.iter().map(route::host_to_proto).collect(),
        authorizations: r.authorizations.iter().map(authorization_to_proto).collect(),
        rules: r.rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn grpc_to_proto(r: &InboundRoute) -> Result<api::GrpcRoute, Invalid> {
    let rule = |matches: &Vec<_>| {
        let matches = matches.iter().map(route::rpc_to_proto).collect::<Result<_, _>>()?;
        Ok(api::grpc_route::Rule { matches, filters: Vec::new() })
    };
    Ok(api::GrpcRoute {
        metadata: Some(meta::to_proto(&r.meta)),
        hosts: r.hosts.iter().map(route::host_to_proto).collect(),
        authorizations: r.authorizations.iter().map(authorization_to_proto).collect(),
        rules: r.rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn http_from_proto(r: api::HttpRoute) -> Result<InboundRoute, Invalid> {
    let rule = |rule: api::http_route::Rule| {
        if !rule.filters.is_empty() {
            return Err(Invalid::Unsupported("a filter on an inbound route"));
        }
        rule.matches.into_iter().map(route::match_from_proto).collect()
    };
    Ok(InboundRoute {
        meta: meta::from_proto("route metadata", r.metadata)?,
        hosts: r.hosts.into_iter().map(route::host_from_proto).collect::<Result<_, _>>()?,
        authorizations: authorizations_from_proto(r.authorizations)?,
        rules: r.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn grpc_from_proto(r: api::GrpcRoute) -> Result<InboundRoute, Invalid> {
    let rule = |rule: api::grpc_route::Rule| {
        if !rule.filters.is_empty() {
            return Err(Invalid::Unsupported("a filter on an inbound route"));
        }
        rule.matches.into_iter().map(route::rpc_from_proto).collect()
    };
    Ok(InboundRoute {
        meta: meta::from_proto("route metadata", r.metadata)?,
        hosts: r.hosts.into_iter().map(route::host_from_proto).collect::<Result<_, _>>()?,
        authorizations: authorizations_from_proto(r.authorizations)?,
        rules: r.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

// === authorizations ===

fn authorization_to_proto(a: &Authorization) -> api::Authz {
    let network = |n: &NetworkMatch| api::Network {
        net: Some(n.net.into()),
        except: n.except.iter().map(|e| (*e).into()).collect(),
    };
    api::Authz {
        networks: a.networks.iter().map(network).collect(),
        authentication: Some(authentication_to_proto(&a.authentication)),
        labels: meta::to_labels(&a.meta),
        metadata: Some(meta::to_proto(&a.meta)),
    }
}

fn authentication_to_proto(authentication: &Authentication) -> api::Authn {
    use api::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
    use api::authn::{Permit, PermitMeshTls, PermitUnauthenticated};
    let mesh = |clients| Permit::MeshTls(PermitMeshTls { clients: Some(clients) });
    let permit = match authentication {
        Authentication::Unauthenticated => Permit::Unauthenticated(PermitUnauthenticated {}),
        Authentication::TlsUnauthenticated => {
            mesh(Clients::Unauthenticated(PermitUnauthenticated {}))
        }
        Authentication::TlsAuthenticated(patterns) => {
            let mut clients = PermitClientIdentities::default();
            for pattern in patterns {
                match pattern {
                    IdentityMatch::Exact(id) => {
                        clients.identities.push(api::Identity { name: id.as_str().to_owned() });
                    }
                    IdentityMatch::Suffix(parts) => {
                        clients.suffixes.push(api::IdentitySuffix { parts: parts.clone() });
                    }
                }
            }
            mesh(Clients::Identities(clients))
        }
    };
    api::Authn { permit: Some(permit) }
}

fn authorizations_from_proto(list: Vec<api::Authz>) -> Result<Arc<[Authorization]>, Invalid> {
    list.into_iter().map(authorization_from_proto).collect()
}

fn authorization_from_proto(authz: api::Authz) -> Result<Authorization, Invalid> {
    if authz.networks.is_empty() {
        return Err(Invalid::Missing("networks of an authorization"));
    }
    let meta = match authz.metadata {
        Some(metadata) => meta::from_proto("authorization metadata", Some(metadata))?,
        None => meta::from_labels("authorization labels", authz.labels)?,
    };
    let authentication = authz.authentication.and_then(|a| a.permit);
    Ok(Authorization {
        meta,
        networks: authz.networks.into_iter().map(network_from_proto).collect::<Result<_, _>>()?,
        authentication: authentication_from_proto(authentication)?,
    })
}

fn authentication_from_proto(
    permit: Option<api::authn::Permit>,
) -> Result<Authentication, Invalid> {
    use api::authn::{Permit, permit_mesh_tls::Clients};
    const FIELD: &str = "authentication";
    let clients = match permit.ok_or(Invalid::Missing(FIELD))? {
        Permit::Unauthenticated(_) => return Ok(Authentication::Unauthenticated),
        Permit::MeshTls(mesh) => mesh.clients.ok_or(Invalid::Missing(FIELD))?,
    };
    match clients {
        Clients::Unauthenticated(_) => Ok(Authentication::TlsUnauthenticated),
        Clients::Identities(ids) => {
            let exact = |id: api::Identity| {
                let id = id.name.parse().map_err(|e| Invalid::value("client identity", e))?;
                Ok(IdentityMatch::Exact(id))
            };
            let suffixes = ids.suffixes.into_iter().map(|s| Ok(IdentityMatch::Suffix(s.parts)));
            let patterns = ids.identities.into_iter().map(exact).chain(suffixes);
            Ok(Authentication::TlsAuthenticated(patterns.collect::<Result<_, _>>()?))
        }
    }
}

fn network_from_proto(network: api::Network) -> Result<NetworkMatch, Invalid> {
    const FIELD: &str = "network of an authorization";
    let parse = |net: net::IpNetwork| IpNet::try_from(net).map_err(|e| Invalid::value(FIELD, e));
    Ok(NetworkMatch {
        net: parse(network.net.ok_or(Invalid::Missing(FIELD))?)?,
        except: network.except.into_iter().map(parse).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies;
    use mesh_model::inbound::{ClientTls, DefaultPolicy};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn policies_round_trip(policy in strategies::server_policy()) {
            prop_assert_eq!(from_proto(to_proto(&policy).unwrap()), Ok(policy));
        }
    }

    // proves: POL-1
    #[test]
    fn what_comes_from_the_controller_allows_loopback() {
        let deny = DefaultPolicy::Deny.opaque_policy(&[]);
        let (policy, problem) = received(to_proto(&deny).unwrap());
        assert_eq!(problem, None);
        let local = "127.0.0.1:1".parse().unwrap();
        let permit = policy.authorize(local, &ClientTls::Plaintext).unwrap();
        assert_eq!(permit.authorization().name(), "localhost");
        assert!(policy.authorize("127.0.0.2:1".parse().unwrap(), &ClientTls::Plaintext).is_err());
    }

    // proves: POL-2
    #[test]
    fn an_unusable_message_lets_nobody_in() {
        let open = DefaultPolicy::AllUnauthenticated.policy(&[], DETECT_TIMEOUT);
        let good = to_proto(&open).unwrap();
        let mut no_networks = good.clone();
        no_networks.authorizations[0].networks.clear();
        let mut filtered = good.clone();
        let Some(api::proxy_protocol::Kind::Detect(detect)) =
            filtered.protocol.as_mut().unwrap().kind.as_mut()
        else {
            panic!("expected detection")
        };
        detect.http_routes[0].rules[0].filters.push(api::http_route::Filter { kind: None });
        let mut timeless = good.clone();
        timeless.protocol.as_mut().unwrap().kind =
            Some(api::proxy_protocol::Kind::Detect(api::proxy_protocol::Detect::default()));
        let protocolless = api::Server { protocol: None, ..good };
        for bad in [no_networks, filtered, timeless, protocolless] {
            let (policy, problem) = received(bad);
            assert!(problem.is_some());
            assert_eq!(policy.meta.name(), "invalid");
            for client in ["127.0.0.1:1", "10.0.0.1:1"] {
                let client = client.parse().unwrap();
                assert!(policy.authorize(client, &ClientTls::Plaintext).is_err(), "{client}");
            }
        }
    }
}
