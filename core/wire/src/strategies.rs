//! # Random values of the model
//!
//! Job: proptest strategies for what the round-trip tests send through the wire. Callers: tests here.

mod outbound;

pub(crate) use outbound::outbound_policy;

use http::{HeaderName, HeaderValue, StatusCode, uri};
use mesh_model::{
    authority::NameAddr,
    endpoint::{
        Endpoint, EndpointMetadata, EndpointUpdate, Http2Params, KeepAlive, ProtocolHint, TlsTarget,
    },
    filter::{Failure, FailureKind, Filter, HeaderModifier, PathModifier, Ratio, Redirect},
    identity::{DnsName, Identity},
    inbound::{
        Authentication, Authorization, IdentityMatch, InboundRoute, InboundRule, NetworkMatch,
        RateLimit, RateOverride, ServerPolicy, ServerProtocol,
    },
    meta::{Meta, Resource},
    profile::{Profile, ProfileRoute, ProfileTarget, RequestMatch, RetryBudget},
    response::{ResponseClass, ResponseMatch},
    route::{HostMatch, PathMatch, Pattern, RouteMatch, ValueMatch},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
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
        vec(profile_route(), 0..3).prop_map(Arc::from),
        option::of(budget()),
    )
        .prop_map(|(fqn, opaque, endpoint, targets, parent, routes, budget)| Profile {
            fqn,
            opaque,
            endpoint,
            targets,
            parent,
            routes,
            budget,
        })
}

/// Ratios that the wire's number holds exactly.
fn budget() -> impl Strategy<Value = RetryBudget> {
    (0_u32..=8, 0..=i32::MAX as u32, 1_u64..=60).prop_map(|(ratio, min_per_second, ttl)| {
        RetryBudget { ratio: ratio * 125_000, min_per_second, ttl: Duration::from_secs(ttl) }
    })
}

fn profile_route() -> impl Strategy<Value = ProfileRoute> {
    let request = prop_oneof![
        word().prop_map(|w| RequestMatch::Path(Pattern::new(&w).expect("a word is a pattern"))),
        prop_oneof![Just("GET"), Just("BREW")].prop_map(|m| RequestMatch::Method(m.to_owned())),
    ];
    let request = request.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(RequestMatch::All),
            vec(inner.clone(), 0..3).prop_map(RequestMatch::Any),
            inner.prop_map(|m| RequestMatch::Not(m.into())),
        ]
    });
    let status = (1_u16..600, 1_u16..600).prop_map(|(a, b)| ResponseMatch::Status(a..=b));
    let response = status.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(ResponseMatch::All),
            vec(inner.clone(), 0..3).prop_map(ResponseMatch::Any),
            inner.prop_map(|m| ResponseMatch::Not(m.into())),
        ]
    });
    let class = (response, any::<bool>())
        .prop_map(|(condition, failure)| ResponseClass { condition, failure });
    let timeout = option::of(duration().prop_filter("zero is none", |d| !d.is_zero()));
    let labels = btree_map(word(), word(), 0..3);
    (request, vec(class, 0..3), labels, any::<bool>(), timeout).prop_map(
        |(condition, responses, labels, retryable, timeout)| ProfileRoute {
            condition,
            responses: responses.into(),
            labels: Arc::new(labels),
            retryable,
            timeout,
        },
    )
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

fn modifier() -> impl Strategy<Value = HeaderModifier> {
    let name = || word().prop_map(|w| w.parse::<HeaderName>().expect("a word is a header name"));
    let pair = || {
        let value = word().prop_map(|w| w.parse::<HeaderValue>().expect("a word is a value"));
        vec((name(), value), 0..2)
    };
    (pair(), pair(), vec(name(), 0..2)).prop_map(|(add, set, remove)| HeaderModifier {
        add,
        set,
        remove,
    })
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let path =
        prop_oneof![word().prop_map(PathModifier::Full), word().prop_map(PathModifier::Prefix),];
    let scheme = prop_oneof![Just(uri::Scheme::HTTP), Just(uri::Scheme::HTTPS)];
    let status = (300_u16..400).prop_map(|code| StatusCode::from_u16(code).expect("a status code"));
    (option::of(scheme), option::of(word()), option::of(port()), option::of(path), status).prop_map(
        |(scheme, host, port, path, status)| Redirect { scheme, host, port, path, status },
    )
}

fn failure(kind: impl Strategy<Value = FailureKind>) -> impl Strategy<Value = Failure> {
    let ratio = (any::<u32>(), 1_u32..).prop_map(|(numerator, denominator)| Ratio {
        numerator,
        denominator: NonZeroU32::new(denominator).expect("not zero"),
    });
    (kind, word(), ratio).prop_map(|(kind, message, ratio)| Failure { kind, message, ratio })
}

fn http_filter() -> impl Strategy<Value = Filter> {
    let status = (100_u16..1000)
        .prop_map(|code| FailureKind::Http(StatusCode::from_u16(code).expect("a status code")));
    prop_oneof![
        modifier().prop_map(Filter::RequestHeaders),
        redirect().prop_map(Filter::Redirect),
        failure(status).prop_map(Filter::Fail),
    ]
}

fn grpc_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        modifier().prop_map(Filter::RequestHeaders),
        failure(any::<u16>().prop_map(FailureKind::Grpc)).prop_map(Filter::Fail),
    ]
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let limit = || (1_u32..).prop_map(|n| NonZeroU32::new(n).expect("not zero"));
    let over = (limit(), vec(identity(), 0..2))
        .prop_map(|(limit, clients)| RateOverride { limit, clients });
    (meta(true), option::of(limit()), option::of(limit()), vec(over, 0..2)).prop_map(
        |(meta, total, identity, overrides)| RateLimit { meta, total, identity, overrides },
    )
}

fn routes<M: Strategy<Value = RouteMatch>, F: Strategy<Value = Filter>>(
    matches: impl Fn() -> M,
    filter: impl Fn() -> F,
) -> impl Strategy<Value = Arc<[InboundRoute]>> {
    let host = prop_oneof![
        word().prop_map(HostMatch::Exact),
        vec(word(), 1..3).prop_map(HostMatch::Suffix)
    ];
    let rule = (vec(matches(), 0..3), vec(filter(), 0..2))
        .prop_map(|(matches, filters)| InboundRule { matches, filters });
    let route = (meta(true), vec(host, 0..2), authorizations(), vec(rule, 0..3)).prop_map(
        |(meta, hosts, authorizations, rules)| InboundRoute { meta, hosts, authorizations, rules },
    );
    vec(route, 0..3).prop_map(Arc::from)
}

pub(crate) fn server_policy() -> impl Strategy<Value = ServerPolicy> {
    let http = || routes(http_match, http_filter);
    let limit = || option::of(rate_limit().prop_map(Arc::new));
    let protocol = prop_oneof![
        (http(), duration(), limit())
            .prop_map(|(http, timeout, l)| (ServerProtocol::Detect { http, timeout }, l)),
        (http(), limit()).prop_map(|(http, l)| (ServerProtocol::Http1(http), l)),
        (http(), limit()).prop_map(|(http, l)| (ServerProtocol::Http2(http), l)),
        routes(rpc_match, grpc_filter).prop_map(|grpc| (ServerProtocol::Grpc(grpc), None)),
        Just((ServerProtocol::Opaque, None)),
        Just((ServerProtocol::Tls, None)),
    ];
    (meta(false), protocol, authorizations()).prop_map(
        |(meta, (protocol, rate_limit), authorizations)| ServerPolicy {
            meta,
            protocol,
            authorizations,
            rate_limit,
        },
    )
}
