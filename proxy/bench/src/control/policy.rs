//! # Policies
//!
//! Job: the policies that the control plane sends: everything is allowed, everything goes to the
//! Service's endpoints. A counter makes each differ from the one before.
//! May touch: values. Callers: `control`.

use super::config::Found;
use linkerd2_proxy_api::{http_route, inbound as inb, meta, net, outbound as out};
use std::{collections::HashMap, net::SocketAddr};
use tonic::Status;

/// What a question about outbound policy names.
pub(crate) fn target(spec: out::TrafficSpec) -> Result<String, Status> {
    match spec.target {
        Some(out::traffic_spec::Target::Addr(addr)) => SocketAddr::try_from(addr)
            .map(|addr| addr.to_string())
            .map_err(|e| Status::invalid_argument(e.to_string())),
        Some(out::traffic_spec::Target::Authority(name)) => Ok(name),
        None => Err(Status::invalid_argument("no target")),
    }
}

/// Toward a Service.
pub(crate) fn outbound(found: &Found, number: u64) -> out::OutboundPolicy {
    use out::proxy_protocol as proto;
    let opaque = proto::Opaque { routes: vec![opaque_route(found, number)] };
    let kind = if found.service.opaque {
        proto::Kind::Opaque(opaque)
    } else {
        let routes = vec![http_route(found, number)];
        proto::Kind::Detect(proto::Detect {
            timeout: millis(10_000),
            opaque: Some(opaque),
            http1: Some(proto::Http1 { routes: routes.clone(), failure_accrual: None }),
            http2: Some(proto::Http2 { routes, failure_accrual: None }),
        })
    };
    let protocol = out::ProxyProtocol { kind: Some(kind) };
    out::OutboundPolicy { protocol: Some(protocol), metadata: Some(found.meta()) }
}

/// Of any port of this Pod.
pub(crate) fn inbound(number: u64) -> inb::Server {
    let name = variant("all-unauthenticated", number);
    let everywhere = ["0.0.0.0/0", "::/0"].map(|text| {
        let net = text.parse::<ipnet::IpNet>().ok().map(net::IpNetwork::from);
        inb::Network { net, except: vec![] }
    });
    let permit = inb::authn::Permit::Unauthenticated(inb::authn::PermitUnauthenticated {});
    let authz = inb::Authz {
        networks: everywhere.into(),
        authentication: Some(inb::Authn { permit: Some(permit) }),
        labels: HashMap::new(),
        metadata: Some(built_in(&name)),
    };
    let route = inb::HttpRoute {
        metadata: Some(built_in("default")),
        hosts: vec![],
        authorizations: vec![authz.clone()],
        rules: vec![inb::http_route::Rule { matches: vec![any_path()], filters: vec![] }],
    };
    let detect = inb::proxy_protocol::Detect {
        timeout: millis(10_000),
        http_routes: vec![route],
        http_local_rate_limit: None,
    };
    let kind = inb::proxy_protocol::Kind::Detect(detect);
    let labels = [("group", ""), ("kind", "default"), ("name", &name)];
    inb::Server {
        protocol: Some(inb::ProxyProtocol { kind: Some(kind) }),
        server_ips: vec![],
        authorizations: vec![authz],
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

fn http_route(found: &Found, number: u64) -> out::HttpRoute {
    use out::http_route as route;
    let backend =
        route::RouteBackend { backend: Some(backend(found)), ..route::RouteBackend::default() };
    let first = route::distribution::FirstAvailable { backends: vec![backend] };
    let kind = route::distribution::Kind::FirstAvailable(first);
    let rule = route::Rule {
        matches: vec![any_path()],
        backends: Some(route::Distribution { kind: Some(kind) }),
        ..route::Rule::default()
    };
    let metadata = Some(built_in(&variant("http", number)));
    out::HttpRoute { metadata, hosts: vec![], rules: vec![rule] }
}

fn opaque_route(found: &Found, number: u64) -> out::OpaqueRoute {
    use out::opaque_route as route;
    let backend = route::RouteBackend { backend: Some(backend(found)), filters: vec![] };
    let first = route::distribution::FirstAvailable { backends: vec![backend] };
    let kind = route::distribution::Kind::FirstAvailable(first);
    let backends = Some(route::Distribution { kind: Some(kind) });
    let rule = route::Rule { backends, filters: vec![] };
    out::OpaqueRoute { metadata: Some(built_in(&variant("opaque", number))), rules: vec![rule] }
}

fn backend(found: &Found) -> out::Backend {
    use out::backend as kinds;
    let get = kinds::endpoint_discovery::DestinationGet { path: found.service.path(found.addr) };
    let discovery =
        kinds::EndpointDiscovery { kind: Some(kinds::endpoint_discovery::Kind::Dst(get)) };
    let load = kinds::balance_p2c::PeakEwma { default_rtt: millis(30), decay: millis(10_000) };
    let balancer = kinds::BalanceP2c {
        discovery: Some(discovery),
        load: Some(kinds::balance_p2c::Load::PeakEwma(load)),
    };
    out::Backend {
        metadata: Some(found.meta()),
        queue: Some(out::Queue { capacity: 100, failfast_timeout: millis(3_000) }),
        kind: Some(kinds::Kind::Balancer(balancer)),
    }
}

fn any_path() -> http_route::HttpRouteMatch {
    let kind = http_route::path_match::Kind::Prefix("/".into());
    let path = Some(http_route::PathMatch { kind: Some(kind) });
    http_route::HttpRouteMatch { path, ..http_route::HttpRouteMatch::default() }
}

fn built_in(name: &str) -> meta::Metadata {
    meta::Metadata { kind: Some(meta::metadata::Kind::Default(name.to_owned())) }
}

/// Two names in turn: the series that they make stay few.
fn variant(name: &str, number: u64) -> String {
    if number.is_multiple_of(2) { name.to_owned() } else { format!("{name}-changed") }
}

fn millis(ms: u32) -> Option<prost_types::Duration> {
    let nanos = (ms % 1000 * 1_000_000).try_into().ok()?;
    Some(prost_types::Duration { seconds: (ms / 1000).into(), nanos })
}
