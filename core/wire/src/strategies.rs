//! # Random values of the model
//!
//! Job: proptest strategies for what the round-trip tests send through the wire. Callers: tests here.

use mesh_model::{
    authority::NameAddr,
    endpoint::{
        Endpoint, EndpointMetadata, EndpointUpdate, Http2Params, KeepAlive, ProtocolHint, TlsTarget,
    },
    identity::{DnsName, Identity},
    inbound::{
        Authentication, Authorization, IdentityMatch, InboundRoute, NetworkMatch, ServerPolicy,
        ServerProtocol,
    },
    meta::{Meta, Resource},
    outbound::{
        Backend, BackendKind, OutboundPolicy, OutboundProtocol, OutboundRoute, PeakEwma,
        RouteAction,
    },
    profile::{Profile, ProfileTarget},
    route::{HostMatch, PathMatch, Pattern, RouteMatch, ValueMatch},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,6}"
}

fn dns() -> impl Strategy<Value = DnsName> {
    vec(word(), 1..4).prop_map(|w| w.join(".").parse().expect("words form a name"))
}

fn port() -> impl Strategy<Value = NonZeroU16> {
    (1_u16..).prop_map(|p| NonZeroU16::new(p).expect("not zero"))
}

fn name_addr() -> impl Strategy<Value = NameAddr> {
    (dns(), port()).prop_map(|(name, port)| NameAddr { name, port })
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn duration() -> impl Strategy<Value = Duration> {
    (0_u64..100_000, 0_u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n))
}

fn identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        dns().prop_map(Identity::Dns),
        dns().prop_map(|n| Identity::Uri(format!("spiffe://{n}/a").into())),
    ]
}

fn meta(namespaced: bool) -> impl Strategy<Value = Meta> {
    let resource = (word(), word(), word(), word(), any::<u16>()).prop_map(
        move |(group, kind, namespace, name, port)| {
            let (namespace, port) = if namespaced { (namespace, port) } else { Default::default() };
            Meta::Resource(
                Resource { group, kind, namespace, name, section: String::new(), port }.into(),
            )
        },
    );
    prop_oneof![word().prop_map(|n| Meta::built_in(&n)), resource]
}

fn http2() -> impl Strategy<Value = Http2Params> {
    let keep = (duration(), duration(), any::<bool>())
        .prop_map(|(interval, timeout, while_idle)| KeepAlive { interval, timeout, while_idle });
    (option::of(keep), option::of(1_u32..), option::of(1_u32..)).prop_map(
        |(keep_alive, initial_stream_window, initial_connection_window)| Http2Params {
            keep_alive,
            initial_stream_window,
            initial_connection_window,
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let tls =
        option::of((identity(), dns()).prop_map(|(id, server_name)| TlsTarget { id, server_name }));
    let hint = prop_oneof![
        Just(ProtocolHint::Unknown),
        Just(ProtocolHint::Http2),
        Just(ProtocolHint::Opaque)
    ];
    let labels = btree_map(word(), word(), 0..3);
    let rest = (option::of(port()), option::of(name_addr()), http2(), labels, any::<u32>());
    (socket(), tls, hint, rest).prop_map(|(addr, tls, hint, rest)| {
        let (opaque_transport, authority_override, http2, labels, weight) = rest;
        let labels = Arc::new(labels);
        Endpoint {
            addr,
            metadata: Arc::new(EndpointMetadata {
                tls,
                hint,
                opaque_transport,
                authority_override,
                http2,
                labels,
                weight,
            }),
        }
    })
}

pub(crate) fn endpoint_update() -> impl Strategy<Value = EndpointUpdate> {
    prop_oneof![
        vec(endpoint(), 0..4).prop_map(EndpointUpdate::Add),
        vec(socket(), 0..4).prop_map(EndpointUpdate::Remove),
        any::<bool>().prop_map(|exists| EndpointUpdate::NoEndpoints { exists }),
    ]
}

pub(crate) fn profile() -> impl Strategy<Value = Profile> {
    let target =
        (name_addr(), any::<u32>()).prop_map(|(addr, weight)| ProfileTarget { addr, weight });
    (
        option::of(dns()),
        any::<bool>(),
        option::of(endpoint()),
        vec(target, 0..3),
        option::of(meta(true)),
    )
        .prop_map(|(fqn, opaque, endpoint, targets, parent)| Profile {
            fqn,
            opaque,
            endpoint,
            targets,
            parent,
        })
}

fn network() -> impl Strategy<Value = NetworkMatch> {
    let net = || {
        (any::<IpAddr>(), 0_u8..=32)
            .prop_map(|(ip, len)| ipnet::IpNet::new(ip, len).expect("at most 32 bits"))
    };
    (net(), vec(net(), 0..2)).prop_map(|(net, except)| NetworkMatch { net, except })
}

fn authorization() -> impl Strategy<Value = Authorization> {
    // Exact identities stand before suffixes on the wire.
    let patterns =
        (vec(identity(), 0..2), vec(vec(word(), 0..3), 0..2)).prop_map(|(exact, suffixes)| {
            let suffixes = suffixes.into_iter().map(IdentityMatch::Suffix);
            exact.into_iter().map(IdentityMatch::Exact).chain(suffixes).collect()
        });
    let authentication = prop_oneof![
        Just(Authentication::Unauthenticated),
        Just(Authentication::TlsUnauthenticated),
        patterns.prop_map(Authentication::TlsAuthenticated),
    ];
    (meta(true), vec(network(), 1..3), authentication).prop_map(
        |(meta, networks, authentication)| Authorization { meta, networks, authentication },
    )
}

fn authorizations() -> impl Strategy<Value = Arc<[Authorization]>> {
    vec(authorization(), 0..3).prop_map(Arc::from)
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        ".{0,5}".prop_map(ValueMatch::Exact),
        word().prop_map(|w| ValueMatch::Regex(Pattern::new(&w).expect("a word is a pattern"))),
    ]
}

fn named_values() -> impl Strategy<Value = Vec<(String, ValueMatch)>> {
    vec((word(), value()), 0..2)
}

fn http_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        word().prop_map(PathMatch::Exact),
        word().prop_map(PathMatch::Prefix),
        word().prop_map(|w| PathMatch::Regex(Pattern::new(&w).expect("a word is a pattern"))),
    ];
    let method = prop_oneof![Just("GET"), Just("TRACE"), Just("BREW")].prop_map(str::to_owned);
    (option::of(path), named_values(), named_values(), option::of(method))
        .prop_map(|(path, headers, query, method)| RouteMatch { path, headers, query, method })
}

fn rpc_match() -> impl Strategy<Value = RouteMatch> {
    let rpc = (option::of(word()), option::of(word()))
        .prop_map(|(service, method)| PathMatch::Rpc { service, method });
    (option::of(rpc), named_values()).prop_map(|(path, headers)| RouteMatch {
        path,
        headers,
        ..RouteMatch::default()
    })
}

fn routes<M: Strategy<Value = RouteMatch>>(
    of: impl Fn() -> M,
) -> impl Strategy<Value = Arc<[InboundRoute]>> {
    let host = prop_oneof![
        word().prop_map(HostMatch::Exact),
        vec(word(), 1..3).prop_map(HostMatch::Suffix)
    ];
    let rules = vec(vec(of(), 0..3), 0..3);
    let route = (meta(true), vec(host, 0..2), authorizations(), rules).prop_map(
        |(meta, hosts, authorizations, rules)| InboundRoute { meta, hosts, authorizations, rules },
    );
    vec(route, 0..3).prop_map(Arc::from)
}

pub(crate) fn server_policy() -> impl Strategy<Value = ServerPolicy> {
    let protocol = prop_oneof![
        (routes(http_match), duration())
            .prop_map(|(http, timeout)| ServerProtocol::Detect { http, timeout }),
        routes(http_match).prop_map(ServerProtocol::Http1),
        routes(http_match).prop_map(ServerProtocol::Http2),
        routes(rpc_match).prop_map(ServerProtocol::Grpc),
        Just(ServerProtocol::Opaque),
        Just(ServerProtocol::Tls),
    ];
    (meta(false), protocol, authorizations()).prop_map(|(meta, protocol, authorizations)| {
        ServerPolicy { meta, protocol, authorizations }
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    let balance = (name_addr(), duration(), duration()).prop_map(|(addr, default_rtt, decay)| {
        BackendKind::Balance { addr, ewma: PeakEwma { default_rtt, decay } }
    });
    // A forward with an identity cannot be taken for a bare address.
    let forward = (endpoint(), identity(), dns()).prop_map(|(mut endpoint, id, server_name)| {
        let tls = Some(TlsTarget { id, server_name });
        Arc::make_mut(&mut endpoint.metadata).tls = tls;
        BackendKind::Forward(endpoint)
    });
    let kind = prop_oneof![balance, forward, socket().prop_map(BackendKind::OriginalDst)];
    (meta(true), kind).prop_map(|(meta, kind)| Backend { meta, kind })
}

fn outbound_routes() -> impl Strategy<Value = Arc<[OutboundRoute]>> {
    let action = prop_oneof![
        vec(backend(), 0..3).prop_map(RouteAction::FirstAvailable),
        Just(RouteAction::Forbidden),
        word().prop_map(RouteAction::Invalid),
    ];
    let route = (meta(true), action).prop_map(|(meta, action)| OutboundRoute { meta, action });
    vec(route, 0..3).prop_map(Arc::from)
}

pub(crate) fn outbound_policy() -> impl Strategy<Value = OutboundPolicy> {
    let protocol = prop_oneof![
        (duration(), outbound_routes(), outbound_routes())
            .prop_map(|(timeout, http, opaque)| OutboundProtocol::Detect { timeout, http, opaque }),
        outbound_routes().prop_map(OutboundProtocol::Http1),
        outbound_routes().prop_map(OutboundProtocol::Http2),
        outbound_routes().prop_map(OutboundProtocol::Grpc),
        outbound_routes().prop_map(OutboundProtocol::Opaque),
        outbound_routes().prop_map(OutboundProtocol::Tls),
    ];
    (meta(true), protocol).prop_map(|(parent, protocol)| OutboundPolicy { parent, protocol })
}
