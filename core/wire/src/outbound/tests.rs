//! # Tests of outbound policies on the wire
//!
//! Job: both ways give the same; what cannot be used fails everything. Callers: `cargo test`.

use super::*;
use crate::strategies;
use mesh_model::{
    filter::{Failure, FailureKind, Filter, Ratio},
    meta::Meta,
    outbound::{Delay, OutboundRule, Retry, Synthesized, Timeouts},
};
use proptest::prelude::*;

proptest! {
    // proves: ROUTE-1
    #[test]
    fn policies_round_trip(policy in strategies::outbound_policy()) {
        prop_assert_eq!(from_proto(to_proto(&policy)), Ok(policy));
    }
}

fn good() -> api::OutboundPolicy {
    let fallback = Synthesized::Fallback("10.0.0.1:80".parse().unwrap());
    to_proto(&OutboundPolicy::synthesized(fallback, DETECT_TIMEOUT))
}

fn detect(policy: &mut api::OutboundPolicy) -> &mut api::proxy_protocol::Detect {
    match policy.protocol.as_mut().unwrap().kind.as_mut().unwrap() {
        api::proxy_protocol::Kind::Detect(detect) => detect,
        other => panic!("expected detection, not {other:?}"),
    }
}

fn rule(policy: &mut api::OutboundPolicy) -> &mut api::http_route::Rule {
    &mut detect(policy).http1.as_mut().unwrap().routes[0].rules[0]
}

// proves: POL-3
#[test]
fn an_unusable_message_fails_everything() {
    let changed = |change: &dyn Fn(&mut api::OutboundPolicy)| {
        let mut policy = good();
        change(&mut policy);
        policy
    };
    let bad = [
        changed(&|p| {
            detect(p).http1.as_mut().unwrap().routes[0].hosts.push(Default::default());
        }),
        changed(&|p| {
            let opaque = &mut detect(p).opaque.as_mut().unwrap().routes[0];
            opaque.rules.push(opaque.rules[0].clone());
        }),
        changed(&|p| {
            let routes = &mut detect(p).opaque.as_mut().unwrap().routes;
            routes.push(routes[0].clone());
        }),
        changed(&|p| {
            detect(p).timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        }),
        changed(&|p| rule(p).retry = Some(Default::default())),
        changed(&|p| {
            let headers = vec![Default::default()];
            let matched =
                linkerd2_proxy_api::http_route::HttpRouteMatch { headers, ..Default::default() };
            rule(p).matches.push(matched);
        }),
        changed(&|p| rule(p).filters.push(Default::default())),
        changed(&|p| rule(p).backends = None),
        changed(&|p| p.protocol = None),
        changed(&|p| p.metadata = None),
    ];
    for bad in bad {
        let (policy, problem) = received(bad);
        assert!(problem.is_some());
        let routes = policy.protocol.http_routes();
        assert!(matches!(&routes[0].rules[0].refusal, Some(Refusal::Invalid(_))));
        assert_eq!(policy.protocol.opaque_routes(), routes);
    }
}

// proves: ROUTE-1
#[test]
fn a_route_that_its_message_cannot_express_refuses() {
    let meta = Meta::built_in("r");
    let retrying = OutboundRule { retry: Some(Retry::default()), ..OutboundRule::default() };
    let policy = OutboundPolicy {
        parent: meta.clone(),
        protocol: OutboundProtocol::Opaque([OutboundRoute::one(meta.clone(), retrying)].into()),
    };
    let read = from_proto(to_proto(&policy)).unwrap();
    assert!(matches!(read.protocol.opaque_routes()[0].rules[0].refusal, Some(Refusal::Invalid(_))));
}

// proves: ROUTE-6
#[test]
fn refusals_travel_as_failures_of_requests() {
    let route = |refusal| OutboundRoute::refusing(Meta::built_in("r"), refusal);
    let routes: Arc<[_]> = [route(Refusal::Forbidden), route(Refusal::Invalid("x".into()))].into();
    for (protocol, kinds) in [
        (
            OutboundProtocol::Http1(routes.clone().into()),
            [403_u16, 500].map(|code| FailureKind::Http(code.try_into().unwrap())),
        ),
        (OutboundProtocol::Grpc(routes.into()), [7, 13].map(FailureKind::Grpc)),
    ] {
        let policy = OutboundPolicy { parent: Meta::built_in("p"), protocol };
        let read = from_proto(to_proto(&policy)).unwrap();
        let read = read.protocol.http_routes();
        for ((route, kind), message) in read.iter().zip(kinds).zip(["traffic not allowed", "x"]) {
            let failure = Failure { kind, message: message.into(), ratio: Ratio::ALL };
            assert_eq!(route.rules[0].filters, [Filter::Fail(failure)]);
        }
    }
}

// proves: TIME-1
#[test]
fn the_older_timeout_counts_where_the_newer_says_nothing() {
    let time = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let mut policy = good();
    #[allow(deprecated)]
    let mut read = |older, request| {
        let rule = rule(&mut policy);
        rule.request_timeout = older;
        let response = time(7);
        let timeouts = linkerd2_proxy_api::http_route::Timeouts { request, response, idle: None };
        rule.timeouts = Some(timeouts);
        let read = from_proto(policy.clone()).unwrap();
        let timeouts: Timeouts = read.protocol.http_routes()[0].rules[0].timeouts;
        timeouts.request.map(|t| t.as_secs())
    };
    assert_eq!(read(time(3), None), Some(3));
    assert_eq!(read(time(3), time(4)), Some(4));
    assert_eq!(read(None, time(0)), None, "zero is no limit");
}

// proves: FLT-2
#[test]
fn a_delay_that_cannot_be_read_makes_the_policy_unusable() {
    let delay = Delay { time: Duration::from_millis(250), ratio: Ratio::ALL };
    let rule = OutboundRule { delay: Some(delay), ..OutboundRule::default() };
    let route = OutboundRoute::one(Meta::built_in("r"), rule);
    let policy = OutboundPolicy::detect(Meta::built_in("p"), DETECT_TIMEOUT, route);
    let mut message = to_proto(&policy);
    let http = detect(&mut message).http1.as_mut().unwrap();
    let step = http.routes[0].rules[0].filters[0].kind.as_mut().unwrap();
    let api::http_route::filter::Kind::RequestHeaderModifier(modifier) = step else {
        panic!("expected a header, not {step:?}");
    };
    let header = &mut modifier.set.as_mut().unwrap().headers[0];
    assert_eq!((header.name.as_str(), &*header.value), ("l5d-fault-delay", &b"250ms 1/1"[..]));
    header.value = b"soon".into();
    assert!(from_proto(message).is_err());
}
