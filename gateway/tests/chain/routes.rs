//! # Requests that a policy routes at the gateway
//!
//! Job: what the exporting cluster's routes do to requests of peers, through real TLS on both sides.

use crate::harness::*;
use http::{Request, StatusCode};
use mesh_discover::RefusalCode;
use mesh_gateway::{load, save};
use mesh_http::Body;
use mesh_model::{
    balance::Balancing,
    endpoint::ProtocolHint,
    filter::{Filter, HeaderModifier},
    meta::{Meta, Resource},
    outbound::{
        Backend, BackendKind, Distribution, OutboundPolicy, OutboundProtocol, OutboundRoute,
        OutboundRule, Retry, RouteBackend, Timeouts,
    },
    profile::{Profile, ProfileTarget},
    response::{GrpcCodes, StatusRanges},
    route::{PathMatch, RouteMatch},
};
use mesh_observe::Metrics;
use std::{sync::Arc, time::Duration};

/// A second Service of east, beside the one that the mirror is of.
const CANARY: &str = "echo-canary.demo.svc.east.example:8080";
const UNEXPORTED: &str = "inner.demo.svc.east.example:8080";

fn meta(kind: &str, name: &str) -> Meta {
    let (group, kind, name) = ("core".to_owned(), kind.to_owned(), name.to_owned());
    Meta::Resource(Resource { group, kind, name, ..Resource::default() }.into())
}

fn to(name: &str) -> RouteBackend {
    let addr = name.parse().unwrap();
    let kind = BackendKind::Balance { addr, balancing: Balancing::default() };
    Backend::new(meta("Service", name.split_once('.').unwrap().0), kind).into()
}

fn rule(prefix: &str, backend: RouteBackend) -> OutboundRule {
    let path = Some(PathMatch::Prefix(prefix.into()));
    OutboundRule {
        matches: vec![RouteMatch { path, ..RouteMatch::default() }],
        backends: Distribution::First(vec![backend]),
        ..OutboundRule::default()
    }
}

/// Marks responses that have taken a rule.
fn marked(rule: OutboundRule, mark: &'static str) -> OutboundRule {
    let set = vec![("x-rule".parse().unwrap(), mark.parse().unwrap())];
    let filters = vec![Filter::ResponseHeaders(HeaderModifier { set, ..Default::default() })];
    OutboundRule { filters, ..rule }
}

fn policy(rules: Vec<OutboundRule>) -> OutboundPolicy {
    let route = OutboundRoute { meta: meta("HTTPRoute", "echo"), hosts: vec![], rules };
    let routes: Arc<[OutboundRoute]> = Arc::new([route]);
    let plain = OutboundRoute::to(meta("Service", "echo"), to(SERVICE).backend);
    let wait = Duration::from_secs(10);
    let protocol = OutboundProtocol::detect(wait, routes.into(), Arc::new([plain]));
    OutboundPolicy { parent: meta("Service", "echo"), protocol }
}

/// East with a canary, and this policy toward the exported Service.
async fn world(rules: Vec<OutboundRule>) -> World {
    let world = World::new().await;
    world.east.service(CANARY, world.pod_endpoint());
    world.east.policy(SERVICE, policy(rules));
    world
}

/// Status, and the mark of the rule that was taken.
async fn ask(world: &World, request: http::request::Builder) -> (StatusCode, String) {
    let response = world.send(request.body(Body::empty()).unwrap()).await.unwrap();
    let mark = response.headers().get("x-rule").map(|mark| mark.to_str().unwrap().to_owned());
    (response.status(), mark.unwrap_or_default())
}

fn both(path: &str) -> [http::request::Builder; 2] {
    [h1("GET", path), h2("GET", path)]
}

fn sent_to(world: &World, name: &str) -> u64 {
    let shown = world.metrics();
    let of = |line: &&str| {
        line.starts_with("outbound_http_route_backend_requests_total{")
            && line.contains(&format!(r#"backend_name="{name}""#))
    };
    shown.lines().filter(of).map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

// proves: GW-10 OUT-3
#[tokio::test]
async fn requests_take_the_routes_of_the_exporting_cluster() {
    let canary = marked(rule("/canary", to(CANARY)), "canary");
    let world = world(vec![canary, marked(rule("/", to(SERVICE)), "usual")]).await;
    for (path, mark) in [("/canary/x", "canary"), ("/", "usual")] {
        for request in both(path) {
            assert_eq!(ask(&world, request).await, (StatusCode::OK, mark.to_owned()));
        }
    }
    assert_eq!((sent_to(&world, "echo-canary"), sent_to(&world, "echo")), (2, 2));
    // A change holds for the next request on the same connections.
    world.east.policy(SERVICE, policy(vec![marked(rule("/", to(CANARY)), "all")]));
    eventually("the new route", || world.metrics().contains(r#"route_name="echo""#)).await;
    let start = std::time::Instant::now();
    while ask(&world, h2("GET", "/")).await.1 != "all" {
        assert!(start.elapsed() < PATIENCE);
    }
    // What no rule takes is told apart from what the gateway refuses.
    world.east.policy(SERVICE, policy(vec![rule("/only", to(SERVICE))]));
    while ask(&world, h2("GET", "/")).await.0 != StatusCode::NOT_FOUND {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(ask(&world, h1("GET", "/only/this")).await.0, StatusCode::OK);
}

// proves: GW-10
#[tokio::test]
async fn a_split_of_the_profile_comes_before_routes() {
    let world = world(vec![marked(rule("/", to(SERVICE)), "policy")]).await;
    let (host, _) = SERVICE.rsplit_once(':').unwrap();
    let targets = vec![ProfileTarget { addr: CANARY.parse().unwrap(), weight: 1 }];
    let fqn = Some(host.parse().unwrap());
    world.east.profile(SERVICE, Profile { fqn, targets, ..Profile::default() });
    assert_eq!(ask(&world, h2("GET", "/")).await, (StatusCode::OK, String::new()));
    assert_eq!((sent_to(&world, "echo"), sent_to(&world, "echo-canary")), (0, 0));
}

// proves: GW-10 GW-3
#[tokio::test]
async fn a_route_opens_no_way_to_what_is_not_exported() {
    let world = world(vec![rule("/inner", to(UNEXPORTED)), rule("/", to(SERVICE))]).await;
    // Known to be refused: told at once, and what is exported goes on.
    for request in both("/inner") {
        let start = std::time::Instant::now();
        let (status, _) = ask(&world, request).await;
        assert!(status.is_server_error(), "{status}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    assert_eq!(ask(&world, h2("GET", "/")).await.0, StatusCode::OK);
    // An address that a route names is no name.
    let app = mesh_model::endpoint::Endpoint { addr: world.app, metadata: Arc::default() };
    for kind in [BackendKind::Forward(app), BackendKind::OriginalDst(world.app)] {
        let direct = Backend::new(meta("Service", "direct"), kind);
        world.east.policy(SERVICE, policy(vec![marked(rule("/", direct.into()), "direct")]));
        let start = std::time::Instant::now();
        loop {
            let (status, mark) = ask(&world, h2("GET", "/")).await;
            assert!(mark != "direct" || status != StatusCode::OK, "it is reached");
            if status == StatusCode::BAD_GATEWAY {
                break;
            }
            assert!(start.elapsed() < PATIENCE);
        }
    }
    // The end of the export ends its routes too.
    world.east.policy(SERVICE, policy(vec![rule("/", to(SERVICE))]));
    world.east.refuse(SERVICE, RefusalCode::FailedPrecondition);
    let start = std::time::Instant::now();
    while ask(&world, h2("GET", "/")).await.0 != StatusCode::NOT_FOUND {
        assert!(start.elapsed() < PATIENCE);
    }
}

// proves: GW-3 GW-10
#[tokio::test]
async fn the_side_of_the_policies_may_say_that_the_export_has_ended() {
    let world = World::new().await;
    assert_eq!(ask(&world, h2("GET", "/")).await.0, StatusCode::OK);
    world.east.refuse_policy(SERVICE, RefusalCode::FailedPrecondition);
    let start = std::time::Instant::now();
    while ask(&world, h2("GET", "/")).await.0 != StatusCode::NOT_FOUND {
        assert!(start.elapsed() < PATIENCE);
    }
    // Exported again: its routes count as well, although the no was that stream's last word.
    world.east.policy(SERVICE, policy(vec![marked(rule("/", to(SERVICE)), "again")]));
    while ask(&world, h2("GET", "/")).await != (StatusCode::OK, "again".to_owned()) {
        assert!(start.elapsed() < PATIENCE);
    }
}

// proves: GW-10
#[tokio::test]
async fn retries_and_limits_of_routes_hold_at_the_gateway() {
    let retry = Retry {
        max: 2,
        max_body: 1 << 16,
        statuses: StatusRanges::server_errors(),
        codes: GrpcCodes::default(),
        timeout: None,
        backoff: None,
    };
    let limit = Timeouts { request: Some(Duration::from_millis(300)), ..Timeouts::default() };
    let world = world(vec![
        OutboundRule { timeouts: limit, ..rule("/slow", to(SERVICE)) },
        OutboundRule { retry: Some(retry), ..rule("/", to(SERVICE)) },
    ])
    .await;
    let failing = h2("GET", "/fails").header("x-status", "503");
    assert_eq!(ask(&world, failing).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sent_to(&world, "echo"), 3, "twice again");
    let start = std::time::Instant::now();
    let slow = h1("GET", "/slow").header("x-silent", "1");
    assert_eq!(ask(&world, slow).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

// proves: GW-6 GW-10
#[tokio::test]
async fn a_restarted_gateway_knows_the_routes_of_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway-view");
    let mut world = world(vec![marked(rule("/", to(CANARY)), "canary")]).await;
    assert_eq!(ask(&world, h2("GET", "/")).await.1, "canary");
    save(&world.view, &path).unwrap();
    world.east = Arc::default();
    world.east.silence();
    let view = load(&path).unwrap().expect("a snapshot");
    world.gateway = world.start_gateway(view, Metrics::new(HOUR));
    world.west.service(MIRROR, world.gateway_endpoint(SERVICE, ProtocolHint::Http2));
    let start = std::time::Instant::now();
    loop {
        let request: Request<Body> = h2("GET", "/").body(Body::empty()).unwrap();
        let answer = world.send(request).await;
        let marked = |r: &http::Response<Body>| r.headers().get("x-rule").is_some();
        if answer.is_ok_and(|answer| answer.status() == StatusCode::OK && marked(&answer)) {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
    }
}
