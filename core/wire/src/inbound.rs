//! # Inbound policies on the wire
//!
//! Job: `inbound.Server`, both ways. A filter that cannot be read fails the requests of its rule; anything
//! else that cannot be read makes the policy unusable, rather than obeyed in part.
//! Callers: the policy controller, `discover`.

use crate::{
    Invalid,
    error::{duration, proto_duration},
    filter, meta, route,
};
use ipnet::IpNet;
use linkerd2_proxy_api::{inbound as api, net};
use mesh_model::{
    filter::Filter,
    identity::Identity,
    inbound::{
        Authentication, Authorization, DETECT_TIMEOUT, IdentityMatch, InboundRoute, InboundRule,
        NetworkMatch, RateLimit, RateOverride, ServerPolicy, ServerProtocol,
    },
    meta::Meta,
};
use std::{num::NonZeroU32, sync::Arc};

/// A policy as a message.
///
/// # Errors
/// When a match has no place in its route's kind; policies built from our own tables have none such.
pub fn to_proto(policy: &ServerPolicy) -> Result<api::Server, Invalid> {
    use api::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
    let http = |routes: &[InboundRoute]| routes.iter().map(http_to_proto).collect::<Result<_, _>>();
    let limit = policy.rate_limit.as_deref().map(rate_limit_to_proto);
    let kind = match &policy.protocol {
        ServerProtocol::Detect { http: routes, timeout } => Kind::Detect(Detect {
            timeout: Some(proto_duration(*timeout)),
            http_routes: http(routes)?,
            http_local_rate_limit: limit,
        }),
        ServerProtocol::Http1(routes) => {
            Kind::Http1(Http1 { routes: http(routes)?, local_rate_limit: limit })
        }
        ServerProtocol::Http2(routes) => {
            Kind::Http2(Http2 { routes: http(routes)?, local_rate_limit: limit })
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
                rate_limit: None,
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
    let mut limit = None;
    let protocol = match kind {
        Kind::Detect(detect) => {
            limit = detect.http_local_rate_limit;
            ServerProtocol::Detect {
                http: http(detect.http_routes)?,
                timeout: duration("detection timeout", detect.timeout)?,
            }
        }
        Kind::Http1(http1) => {
            limit = http1.local_rate_limit;
            ServerProtocol::Http1(http(http1.routes)?)
        }
        Kind::Http2(http2) => {
            limit = http2.local_rate_limit;
            ServerProtocol::Http2(http(http2.routes)?)
        }
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
        rate_limit: limit.map(rate_limit_from_proto).transpose()?.map(Arc::new),
    })
}

// === routes ===

fn http_to_proto(r: &InboundRoute) -> Result<api::HttpRoute, Invalid> {
    let rule = |rule: &InboundRule| {
        let matches = rule.matches.iter().map(route::match_to_proto).collect::<Result<_, _>>()?;
        let filters = rule.filters.iter().map(http_filter_to_proto).collect::<Result<_, _>>()?;
        Ok(api::http_route::Rule { matches, filters })
    };
    Ok(api::HttpRoute {
        metadata: Some(meta::to_proto(&r.meta)),
        hosts: r.hosts.iter().map(route::host_to_proto).collect(),
        authorizations: r.authorizations.iter().map(authorization_to_proto).collect(),
        rules: r.rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn grpc_to_proto(r: &InboundRoute) -> Result<api::GrpcRoute, Invalid> {
    let rule = |rule: &InboundRule| {
        let matches = rule.matches.iter().map(route::rpc_to_proto).collect::<Result<_, _>>()?;
        let filters = rule.filters.iter().map(grpc_filter_to_proto).collect::<Result<_, _>>()?;
        Ok(api::grpc_route::Rule { matches, filters })
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
        let matches = rule.matches.into_iter().map(route::match_from_proto);
        Ok(InboundRule {
            matches: matches.collect::<Result<_, _>>()?,
            filters: rule.filters.into_iter().map(|f| usable(http_filter_from_proto(f))).collect(),
        })
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
        let matches = rule.matches.into_iter().map(route::rpc_from_proto);
        Ok(InboundRule {
            matches: matches.collect::<Result<_, _>>()?,
            filters: rule.filters.into_iter().map(|f| usable(grpc_filter_from_proto(f))).collect(),
        })
    };
    Ok(InboundRoute {
        meta: meta::from_proto("route metadata", r.metadata)?,
        hosts: r.hosts.into_iter().map(route::host_from_proto).collect::<Result<_, _>>()?,
        authorizations: authorizations_from_proto(r.authorizations)?,
        rules: r.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

// === filters ===

fn usable(filter: Result<Filter, Invalid>) -> Filter {
    filter.unwrap_or_else(|invalid| Filter::Unusable(invalid.to_string()))
}

fn http_filter_to_proto(filter: &Filter) -> Result<api::http_route::Filter, Invalid> {
    use api::http_route::filter::Kind;
    const OTHER: Invalid = Invalid::Unsupported("a filter of this kind on an inbound HTTP route");
    let kind = match filter {
        Filter::RequestHeaders(m) => {
            Some(Kind::RequestHeaderModifier(filter::request_headers_to_proto(m)))
        }
        Filter::Redirect(r) => Some(Kind::Redirect(filter::redirect_to_proto(r))),
        Filter::Fail(f) => Some(Kind::FailureInjector(filter::failure_to_proto(f).ok_or(OTHER)?)),
        Filter::ResponseHeaders(_) => return Err(OTHER),
        Filter::Unusable(_) => None,
    };
    Ok(api::http_route::Filter { kind })
}

fn grpc_filter_to_proto(filter: &Filter) -> Result<api::grpc_route::Filter, Invalid> {
    use api::grpc_route::filter::Kind;
    const OTHER: Invalid = Invalid::Unsupported("a filter of this kind on an inbound gRPC route");
    let kind = match filter {
        Filter::RequestHeaders(m) => {
            Some(Kind::RequestHeaderModifier(filter::request_headers_to_proto(m)))
        }
        Filter::Fail(f) => {
            Some(Kind::FailureInjector(filter::grpc_failure_to_proto(f).ok_or(OTHER)?))
        }
        Filter::Redirect(_) | Filter::ResponseHeaders(_) => return Err(OTHER),
        Filter::Unusable(_) => None,
    };
    Ok(api::grpc_route::Filter { kind })
}

fn http_filter_from_proto(f: api::http_route::Filter) -> Result<Filter, Invalid> {
    use api::http_route::filter::Kind;
    Ok(match f.kind.ok_or(NO_KIND)? {
        Kind::FailureInjector(f) => Filter::Fail(filter::failure_from_proto(f)?),
        Kind::RequestHeaderModifier(m) => {
            Filter::RequestHeaders(filter::request_headers_from_proto(m)?)
        }
        Kind::Redirect(r) => Filter::Redirect(filter::redirect_from_proto(r)?),
    })
}

fn grpc_filter_from_proto(f: api::grpc_route::Filter) -> Result<Filter, Invalid> {
    use api::grpc_route::filter::Kind;
    Ok(match f.kind.ok_or(NO_KIND)? {
        Kind::FailureInjector(f) => Filter::Fail(filter::grpc_failure_from_proto(f)?),
        Kind::RequestHeaderModifier(m) => {
            Filter::RequestHeaders(filter::request_headers_from_proto(m)?)
        }
    })
}

const NO_KIND: Invalid = Invalid::Missing("kind of a filter");

// === rate limits ===

fn rate_limit_to_proto(limit: &RateLimit) -> api::HttpLocalRateLimit {
    use api::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let number = |n: NonZeroU32| Limit { requests_per_second: n.get() };
    let name = |id: &Identity| api::Identity { name: id.as_str().to_owned() };
    let over = |o: &RateOverride| Override {
        limit: Some(number(o.limit)),
        clients: Some(ClientIdentities { identities: o.clients.iter().map(name).collect() }),
    };
    api::HttpLocalRateLimit {
        metadata: Some(meta::to_proto(&limit.meta)),
        total: limit.total.map(number),
        identity: limit.identity.map(number),
        overrides: limit.overrides.iter().map(over).collect(),
    }
}

/// A limit of 0, or none, limits nothing, as for Linkerd's proxy.
fn rate_limit_from_proto(limit: api::HttpLocalRateLimit) -> Result<RateLimit, Invalid> {
    use api::http_local_rate_limit::{Limit, Override};
    let number = |l: Option<Limit>| l.and_then(|l| NonZeroU32::new(l.requests_per_second));
    let over = |o: Override| {
        let clients = o.clients.map(|c| c.identities).unwrap_or_default().into_iter();
        let clients = clients.map(|id| id.name.parse());
        let clients: Vec<Identity> = clients
            .collect::<Result<_, _>>()
            .map_err(|e| Invalid::value("client of a rate limit", e))?;
        Ok(number(o.limit).map(|limit| RateOverride { limit, clients }))
    };
    let overrides = limit.overrides.into_iter().map(over);
    Ok(RateLimit {
        meta: meta::from_proto("rate limit metadata", limit.metadata)?,
        total: number(limit.total),
        identity: number(limit.identity),
        overrides: overrides.filter_map(Result::transpose).collect::<Result<_, _>>()?,
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
        let mut timeless = good.clone();
        timeless.protocol.as_mut().unwrap().kind =
            Some(api::proxy_protocol::Kind::Detect(api::proxy_protocol::Detect::default()));
        let protocolless = api::Server { protocol: None, ..good };
        for bad in [no_networks, timeless, protocolless] {
            let (policy, problem) = received(bad);
            assert!(problem.is_some());
            assert_eq!(policy.meta.name(), "invalid");
            for client in ["127.0.0.1:1", "10.0.0.1:1"] {
                let client = client.parse().unwrap();
                assert!(policy.authorize(client, &ClientTls::Plaintext).is_err(), "{client}");
            }
        }
    }

    #[test]
    fn an_unusable_filter_fails_its_rule_alone() {
        let open = DefaultPolicy::AllUnauthenticated.policy(&[], DETECT_TIMEOUT);
        let mut message = to_proto(&open).unwrap();
        let Some(api::proxy_protocol::Kind::Detect(detect)) =
            message.protocol.as_mut().unwrap().kind.as_mut()
        else {
            panic!("expected detection")
        };
        let kind = api::http_route::filter::Kind::Redirect(
            linkerd2_proxy_api::http_route::RequestRedirect { status: 200, ..Default::default() },
        );
        let filters = [None, Some(kind)].map(|kind| api::http_route::Filter { kind });
        detect.http_routes[0].rules[0].filters.extend(filters);
        let (policy, problem) = received(message);
        assert_eq!(problem, None);
        let filters = &policy.protocol.routes()[0].rules[0].filters;
        assert!(filters.iter().all(|f| matches!(f, Filter::Unusable(_))), "{filters:?}");
        assert_eq!(filters.len(), 2);
    }
}
