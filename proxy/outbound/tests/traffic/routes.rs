//! # Policy routes
//!
//! Job: requests by host, path and header through the sidecar to real servers: filters, distributions,
//! timeouts, retries, and what the metrics say. Must not touch: anything but loopback.

use crate::harness::*;
use http::{HeaderValue, Request, Response, StatusCode};
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::{
    balance::Balancing,
    endpoint::{Endpoint, EndpointMetadata, EndpointSet, ProtocolHint},
    filter::{Failure, FailureKind, Filter, HeaderModifier, PathModifier, Ratio, Redirect},
    meta::{Meta, Resource},
    outbound::{
        Backend, BackendKind, Delay, Distribution, HttpPolicy, OutboundPolicy, OutboundProtocol,
        OutboundRoute, OutboundRule, QueuePolicy, Retry, RouteBackend, Timeouts,
    },
    response::GrpcCodes,
    route::{HostMatch, PathMatch, RouteMatch, ValueMatch},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

const TARGET: &str = "10.9.8.7:80";

pub(crate) fn meta(kind: &str, name: &str) -> Meta {
    let (group, kind, name) = ("core".to_owned(), kind.to_owned(), name.to_owned());
    let namespace = "shop".to_owned();
    Meta::Resource(Resource { group, kind, name, namespace, ..Resource::default() }.into())
}

pub(crate) fn forward(name: &str, addr: SocketAddr) -> Backend {
    let endpoint = Endpoint { addr, metadata: Arc::new(EndpointMetadata::default()) };
    Backend::new(meta("Service", name), BackendKind::Forward(endpoint))
}

fn balance(name: &str) -> Backend {
    let addr = name.parse().unwrap();
    let kind = BackendKind::Balance { addr, balancing: Balancing::default() };
    Backend::new(meta("Service", name), kind)
}

fn to(backend: Backend) -> OutboundRule {
    let backends = Distribution::First(vec![backend.into()]);
    OutboundRule { backends, ..OutboundRule::default() }
}

fn route(rules: Vec<OutboundRule>) -> OutboundRoute {
    OutboundRoute { meta: meta("HTTPRoute", "r"), hosts: vec![], rules }
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: Some(PathMatch::Prefix(path.into())), ..RouteMatch::default() }
}

fn policy(routes: Vec<OutboundRoute>) -> OutboundPolicy {
    let routes: Arc<[OutboundRoute]> = routes.into();
    let protocol = OutboundProtocol::detect(Duration::from_secs(10), routes.into(), Arc::new([]));
    OutboundPolicy { parent: meta("Service", "web"), protocol }
}

/// The entrance of a destination with these routes.
async fn entrance(rig: &Rig, routes: Vec<OutboundRoute>) -> SocketAddr {
    put(&rig.known.policies, TARGET, policy(routes));
    rig.entrance(TARGET).await
}

/// Answers with its tag, and with the request's `x-seen` as header.
async fn tagged(tag: &'static str) -> SocketAddr {
    serve(HttpVersion::Http1, move |request: Request<Body>| async move {
        let mut response = Response::new(Body::full(tag));
        for (name, value) in request.headers() {
            if name.as_str().starts_with("x-") || name.as_str().starts_with("l5d-") {
                let seen = format!("saw-{name}");
                let seen: http::HeaderName = seen.parse().unwrap();
                response.headers_mut().append(seen, value.clone());
            }
        }
        response
    })
    .await
}

fn get(uri: &str) -> Request<Body> {
    let uri: http::Uri = uri.parse().unwrap();
    let host = uri.authority().map_or("web", |a| a.as_str()).to_owned();
    let path = uri.path_and_query().unwrap().as_str().to_owned();
    Request::get(path).header("host", host).body(Body::empty()).unwrap()
}

async fn ask(entrance: SocketAddr, request: Request<Body>) -> (u16, String) {
    let response = h1(entrance).await.send_request(request).await.unwrap();
    (response.status().as_u16(), text(response.into_body()).await)
}

fn scrape(rig: &Rig) -> String {
    String::from_utf8(rig.metrics.text()).unwrap()
}

// proves: ROUTE-1
#[tokio::test]
async fn requests_go_where_the_most_specific_rule_says() {
    let rig = Rig::new();
    let (a, b, c) = (tagged("a").await, tagged("b").await, tagged("c").await);
    let with = |matches, backend| OutboundRule { matches: vec![matches], ..to(backend) };
    let header = RouteMatch {
        headers: vec![("x-canary".into(), ValueMatch::Exact("yes".into()))],
        ..prefix("/api")
    };
    let only = OutboundRoute {
        hosts: vec![HostMatch::Suffix(vec!["shop".into()])],
        ..route(vec![to(forward("c", c))])
    };
    let rules = vec![with(prefix("/api"), forward("a", a)), with(header, forward("b", b))];
    let entrance = entrance(&rig, vec![route(rules), only]).await;
    let canary = |mut request: Request<Body>| {
        request.headers_mut().insert("x-canary", HeaderValue::from_static("yes"));
        request
    };
    for (request, status, body) in [
        (get("http://web/api/x"), 200, "a"),
        (canary(get("http://web/api/x")), 200, "b"),
        (canary(get("http://web.shop:81/api/x")), 200, "c"),
        (get("http://web/other"), 404, ""),
    ] {
        assert_eq!(ask(entrance, request).await, (status, body.to_owned()));
    }
    let lost = h1(entrance).await.send_request(get("http://web/")).await.unwrap();
    let said = lost.headers()["l5d-proxy-error"].to_str().unwrap();
    assert!(said.starts_with("logical service 10.9.8.7:80: no route"), "{said}");
    assert!(!lost.headers().contains_key("connection"), "the connection stays");
}

// proves: ROUTE-1
#[tokio::test]
async fn each_version_of_http_has_its_own_routes() {
    let rig = Rig::new();
    let server = serve(HttpVersion::Http2, echo).await;
    let http2 = HttpPolicy::from(Arc::from([route(vec![to(forward("a", server))])]));
    let protocol = OutboundProtocol::Detect {
        timeout: Duration::from_secs(1),
        http1: HttpPolicy::default(),
        http2,
        opaque: Arc::new([]),
    };
    put(&rig.known.policies, TARGET, OutboundPolicy { parent: meta("Service", "web"), protocol });
    let entrance = rig.entrance(TARGET).await;
    assert_eq!(ask(entrance, get("http://web/")).await.0, 404);
    let request = Request::get("http://web/").body(Body::empty()).unwrap();
    let response = h2(entrance).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

// proves: ROUTE-4
#[tokio::test]
async fn filters_change_headers_redirect_and_fail() {
    let rig = Rig::new();
    let server = tagged("a").await;
    let pair = |name: &'static str, value: &'static str| {
        (http::HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let set = |name, value| HeaderModifier { set: vec![pair(name, value)], ..Default::default() };
    let mut backend: RouteBackend = forward("a", server).into();
    backend.filters =
        vec![Filter::RequestHeaders(set("x-two", "2")), Filter::ResponseHeaders(set("two", "2"))];
    let changed = OutboundRule {
        filters: vec![
            Filter::RequestHeaders(set("x-one", "1")),
            Filter::ResponseHeaders(set("one", "1")),
        ],
        backends: Distribution::First(vec![backend]),
        ..OutboundRule::default()
    };
    let redirect = Redirect {
        scheme: None,
        host: Some("other".into()),
        port: None,
        path: Some(PathModifier::Prefix("/new".into())),
        status: StatusCode::FOUND,
    };
    let redirected = OutboundRule {
        matches: vec![prefix("/old")],
        filters: vec![Filter::Redirect(redirect)],
        ..OutboundRule::default()
    };
    let failure = Failure {
        kind: FailureKind::Http(StatusCode::IM_A_TEAPOT),
        message: "no tea".into(),
        ratio: Ratio::ALL,
    };
    let failing = OutboundRule {
        matches: vec![prefix("/fail")],
        filters: vec![Filter::Fail(failure)],
        ..OutboundRule::default()
    };
    let entrance = entrance(&rig, vec![route(vec![changed, redirected, failing])]).await;
    let mut client = h1(entrance).await;
    let response = client.send_request(get("http://web/a")).await.unwrap();
    for (name, value) in [("saw-x-one", "1"), ("saw-x-two", "2"), ("one", "1"), ("two", "2")] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    text(response.into_body()).await;
    let response = client.send_request(get("http://web/old/x?q")).await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "http://other/new/x?q");
    text(response.into_body()).await;
    let response = client.send_request(get("http://web/fail")).await.unwrap();
    assert_eq!(response.status(), 418);
    let said = response.headers()["l5d-proxy-error"].to_str().unwrap();
    assert!(said.contains("HTTP request configured to fail with 418") && said.contains("no tea"));
    text(response.into_body()).await;
    let again = client.send_request(get("http://web/a")).await.unwrap();
    assert_eq!(again.status(), 200, "none of these closes the connection");
}

// proves: FLT-1
#[tokio::test]
async fn faults_strike_their_share() {
    let rig = Rig::new();
    let server = tagged("a").await;
    let half = Ratio { numerator: 1, denominator: 2.try_into().unwrap() };
    let failure = Failure {
        kind: FailureKind::Http(StatusCode::SERVICE_UNAVAILABLE),
        message: "on purpose".into(),
        ratio: half,
    };
    let time = Duration::from_millis(300);
    let rules = vec![
        OutboundRule {
            matches: vec![prefix("/abort")],
            filters: vec![Filter::Fail(failure)],
            ..to(forward("a", server))
        },
        OutboundRule {
            matches: vec![prefix("/delay")],
            delay: Some(Delay { time, ratio: Ratio::ALL }),
            ..to(forward("a", server))
        },
    ];
    let entrance = entrance(&rig, vec![route(rules)]).await;
    let mut client = h1(entrance).await;
    let mut failed = 0;
    for _ in 0..200 {
        let response = client.send_request(get("http://web/abort")).await.unwrap();
        failed += usize::from(response.status() == 503);
        text(response.into_body()).await;
    }
    assert!((50..150).contains(&failed), "{failed} of 200");
    let start = Instant::now();
    assert_eq!(ask(entrance, get("http://web/delay")).await.0, 200);
    assert!(start.elapsed() >= time);
}

// proves: ROUTE-5
#[tokio::test]
async fn weights_share_and_a_backend_without_endpoints_is_passed_over() {
    let rig = Rig::new();
    let (a, b) = (tagged("a").await, tagged("b").await);
    put(&rig.known.endpoints, "none.shop:80", EndpointSet::Unknown);
    let weighted = |backend: Backend, weight| (weight, RouteBackend::from(backend));
    let random =
        |list| OutboundRule { backends: Distribution::Random(list), ..OutboundRule::default() };
    let rules = vec![
        random(vec![weighted(forward("a", a), 3), weighted(forward("b", b), 1)]),
        OutboundRule {
            matches: vec![prefix("/none")],
            ..random(vec![weighted(balance("none.shop:80"), 1), weighted(forward("b", b), 1)])
        },
        OutboundRule {
            matches: vec![prefix("/first")],
            backends: Distribution::First(vec![
                balance("none.shop:80").into(),
                forward("a", a).into(),
            ]),
            ..OutboundRule::default()
        },
        OutboundRule { matches: vec![prefix("/empty")], ..OutboundRule::default() },
        OutboundRule {
            matches: vec![prefix("/unknown")],
            ..to(Backend::new(meta("Service", "x"), BackendKind::Unknown))
        },
    ];
    let entrance = entrance(&rig, vec![route(rules)]).await;
    let mut client = h1(entrance).await;
    let mut hits = [0, 0];
    for _ in 0..400 {
        let response = client.send_request(get("http://web/")).await.unwrap();
        hits[usize::from(text(response.into_body()).await == "b")] += 1;
    }
    assert!((40..160).contains(&hits[1]), "{hits:?}");
    // The balancers come to be with their first request, and learn that they have nothing.
    let start = Instant::now();
    while ask(entrance, get("http://web/none")).await.0 != 200 {}
    while ask(entrance, get("http://web/first")).await.0 != 200 {}
    assert!(start.elapsed() < PATIENCE);
    for _ in 0..20 {
        assert_eq!(ask(entrance, get("http://web/none")).await.1, "b");
        assert_eq!(ask(entrance, get("http://web/first")).await.1, "a");
    }
    assert_eq!(ask(entrance, get("http://web/empty")).await.0, 503);
    assert_eq!(ask(entrance, get("http://web/unknown")).await.0, 502);
}

// proves: ROUTE-7
#[tokio::test]
async fn a_policy_may_say_who_waits_and_how_long() {
    let rig = Rig::new();
    put(&rig.known.endpoints, "none.shop:80", EndpointSet::Unknown);
    let mut backend = balance("none.shop:80");
    backend.queue = Some(QueuePolicy { capacity: 5, failfast: Duration::from_millis(50) });
    let entrance = entrance(&rig, vec![route(vec![to(backend)])]).await;
    let start = Instant::now();
    assert_eq!(ask(entrance, get("http://web/")).await.0, 504);
    assert!(start.elapsed() < Duration::from_secs(2), "not the three seconds of the settings");
}

/// Answers after a while.
async fn slow(wait: Duration) -> SocketAddr {
    serve(HttpVersion::Http1, move |_| async move {
        tokio::time::sleep(wait).await;
        Response::new(Body::full("late"))
    })
    .await
}

// proves: TIME-2, TIME-5
#[tokio::test]
async fn timeouts_are_504_and_leave_the_connection() {
    let rig = Rig::new();
    let server = slow(PATIENCE).await;
    let short = Some(Duration::from_millis(100));
    let limited = |path: &str, timeouts| OutboundRule {
        matches: vec![prefix(path)],
        timeouts,
        ..to(forward("a", server))
    };
    let mut backend: RouteBackend = forward("a", server).into();
    backend.timeout = short;
    let rules = vec![
        limited("/request", Timeouts { request: short, ..Timeouts::default() }),
        limited("/response", Timeouts { response: short, ..Timeouts::default() }),
        limited("/idle", Timeouts { idle: short, ..Timeouts::default() }),
        OutboundRule {
            matches: vec![prefix("/backend")],
            backends: Distribution::First(vec![backend]),
            ..OutboundRule::default()
        },
    ];
    let entrance = entrance(&rig, vec![route(rules)]).await;
    let mut client = h1(entrance).await;
    for (path, kind) in [
        ("/request", "request timeout"),
        ("/response", "response stream timeout"),
        ("/idle", "idle timeout"),
        ("/backend", "request timeout"),
    ] {
        let response = client.send_request(get(&format!("http://web{path}"))).await.unwrap();
        assert_eq!(response.status(), 504);
        let said = response.headers()["l5d-proxy-error"].to_str().unwrap();
        let expected = format!("timed out waiting for response headers: {kind}: 100ms");
        assert!(said.ends_with(&expected), "{said}");
        text(response.into_body()).await;
    }
    let text = scrape(&rig);
    assert!(text.contains(r#"http_status="",error="IDLE_TIMEOUT""#), "{text}");
    assert!(text.contains(r#"outbound_http_errors_total{error="response timeout"} 4"#), "{text}");
}

// proves: RETRY-5
#[tokio::test]
async fn the_application_may_ask_where_the_rule_allows_it() {
    let rig = Rig::new();
    let server = tagged("a").await;
    let late = slow(PATIENCE).await;
    let rules = vec![
        OutboundRule { allow_overrides: true, ..to(forward("late", late)) },
        OutboundRule { matches: vec![prefix("/no")], ..to(forward("a", server)) },
    ];
    let entrance = entrance(&rig, vec![route(rules)]).await;
    let asking = |uri: &str| {
        let mut request = get(uri);
        request.headers_mut().insert("l5d-timeout", HeaderValue::from_static("100ms"));
        request
    };
    assert_eq!(ask(entrance, asking("http://web/yes")).await.0, 504);
    let passed = h1(entrance).await.send_request(asking("http://web/no")).await.unwrap();
    assert_eq!(passed.headers()["saw-l5d-timeout"], "100ms", "untouched where it means nothing");
}

/// Fails so many times, then answers.
async fn flaky(times: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let addr = serve(HttpVersion::Http1, move |request: Request<Body>| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut response = echo(request).await;
            if n < times {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        }
    })
    .await;
    (addr, asked)
}

fn retry(max: u32) -> Option<Retry> {
    let statuses = [500..=599].into_iter().collect();
    Some(Retry { max, statuses, ..Retry::default() })
}

// proves: RETRY-1, RETRY-2
#[tokio::test]
async fn failures_are_retried_with_their_body_up_to_the_limit() {
    let rig = Rig::new();
    let (addr, asked) = flaky(2).await;
    let rule = OutboundRule { retry: retry(2), ..to(forward("a", addr)) };
    let entrance = entrance(&rig, vec![route(vec![rule])]).await;
    let post = || {
        let request = Request::post("/").header("host", "web");
        request.body(Body::full("some body")).unwrap()
    };
    assert_eq!(ask(entrance, post()).await, (200, "some body".into()));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    asked.store(0, Ordering::Relaxed);
    let rule = OutboundRule { retry: retry(1), ..to(forward("a", addr)) };
    put(&rig.known.policies, "10.9.8.7:81", policy(vec![route(vec![rule])]));
    let limited = rig.entrance("10.9.8.7:81").await;
    assert_eq!(ask(limited, post()).await, (503, "some body".into()), "the last is returned");
    let text = scrape(&rig);
    let count = |family: &str, port: &str| {
        let line = |line: &&str| {
            line.starts_with(&format!("outbound_http_route_{family}_total{{"))
                && line.contains(&format!("parent_port=\"{port}\""))
        };
        let line = text.lines().find(line).unwrap_or_default();
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!(count("retry_requests", "80"), "2", "{text}");
    assert_eq!(count("retry_successes", "80"), "1");
    assert_eq!(count("retry_limit_exceeded", "81"), "1");
    assert_eq!(count("backend_requests", "80"), "3");
    assert_eq!(count("request_statuses", "80"), "1");
}

// proves: RETRY-7
#[tokio::test]
async fn a_retry_goes_to_another_endpoint() {
    let rig = Rig::new();
    let (bad, _) = flaky(usize::MAX).await;
    let good = tagged("good").await;
    let plain = EndpointMetadata::default;
    put(&rig.known.endpoints, "web.shop:80", set(&[(bad, plain()), (good, plain())]));
    let rule = OutboundRule { retry: retry(1), ..to(balance("web.shop:80")) };
    let entrance = entrance(&rig, vec![route(vec![rule])]).await;
    for _ in 0..50 {
        assert_eq!(ask(entrance, get("http://web/")).await, (200, "good".into()));
    }
}

// proves: RETRY-8
#[tokio::test]
async fn an_attempt_that_is_late_is_given_up_but_for_the_last() {
    let rig = Rig::new();
    let (late, good) = (slow(Duration::from_millis(400)).await, tagged("good").await);
    let plain = EndpointMetadata::default;
    put(&rig.known.endpoints, "web.shop:80", set(&[(late, plain()), (good, plain())]));
    let hurried = Retry { timeout: Some(Duration::from_millis(50)), ..Retry::default() };
    let rules = vec![
        OutboundRule { retry: Some(hurried.clone()), ..to(balance("web.shop:80")) },
        OutboundRule {
            matches: vec![prefix("/late")],
            retry: Some(hurried),
            ..to(forward("late", late))
        },
    ];
    let entrance = entrance(&rig, vec![route(rules)]).await;
    for _ in 0..10 {
        assert_eq!(ask(entrance, get("http://web/")).await, (200, "good".into()));
    }
    assert_eq!(ask(entrance, get("http://web/late")).await, (200, "late".into()));
}

// proves: RETRY-4, ROUTE-6
#[tokio::test]
async fn grpc_is_matched_failed_and_retried_by_its_codes() {
    let rig = Rig::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = serve(HttpVersion::Http2, move |_| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move {
            let code = if n == 0 { "14" } else { "0" };
            Response::builder().header("grpc-status", code).body(Body::empty()).unwrap()
        }
    })
    .await;
    let hinted = EndpointMetadata { hint: ProtocolHint::Http2, ..EndpointMetadata::default() };
    let endpoint = Endpoint { addr: server, metadata: Arc::new(hinted) };
    let backend = Backend::new(meta("Service", "a"), BackendKind::Forward(endpoint));
    let rpc = |service: &str| {
        let path = PathMatch::Rpc { service: Some(service.into()), method: None };
        vec![RouteMatch { path: Some(path), ..RouteMatch::default() }]
    };
    let retry = Retry { codes: GrpcCodes::of(&[14]), ..Retry::default() };
    let failure =
        Failure { kind: FailureKind::Grpc(8), message: "enough".into(), ratio: Ratio::ALL };
    let rules = vec![
        OutboundRule { matches: rpc("pkg.Good"), retry: Some(retry), ..to(backend) },
        OutboundRule {
            matches: rpc("pkg.Full"),
            filters: vec![Filter::Fail(failure)],
            ..OutboundRule::default()
        },
    ];
    let http = HttpPolicy::from(Arc::from([route(rules)]));
    let protocol = OutboundProtocol::Grpc(http);
    put(&rig.known.policies, TARGET, OutboundPolicy { parent: meta("Service", "web"), protocol });
    let mut client = h2(rig.entrance(TARGET).await).await;
    for (path, code) in [("pkg.Good/M", "0"), ("pkg.Full/M", "8"), ("pkg.Other/M", "5")] {
        let request = Request::post(format!("http://web/{path}"))
            .header("content-type", "application/grpc")
            .body(Body::empty())
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], code, "{path}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2, "the first was retried");
    let text = scrape(&rig);
    let ok = r#"outbound_grpc_route_request_statuses_total{parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="web",parent_port="80",parent_section_name="",route_group="core",route_kind="HTTPRoute",route_namespace="shop",route_name="r",grpc_status="OK",error=""} 1"#;
    assert!(text.contains(ok), "{text}");
}

// proves: ROUTE-9
#[tokio::test]
async fn a_new_policy_holds_for_open_connections_and_keeps_backends() {
    let rig = Rig::new();
    let (a, b) = (tagged("a").await, tagged("b").await);
    let entrance = entrance(&rig, vec![route(vec![to(forward("a", a))])]).await;
    let mut client = h1(entrance).await;
    let response = client.send_request(get("http://web/")).await.unwrap();
    assert_eq!(text(response.into_body()).await, "a");
    let denied = OutboundRoute::refusing(
        meta("EgressNetwork", "deny"),
        mesh_model::outbound::Refusal::Forbidden,
    );
    for (routes, expected) in
        [(vec![route(vec![to(forward("b", b))])], 200), (vec![denied], 403), (vec![], 404)]
    {
        let state = mesh_discover::State::Known(policy(routes));
        rig.known.policies.lock().unwrap()[TARGET].send_replace(state);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = client.send_request(get("http://web/")).await.unwrap();
            let status = response.status().as_u16();
            let body = text(response.into_body()).await;
            if status == expected && body != "a" {
                break;
            }
            assert!(Instant::now() < deadline, "{status} {body}");
        }
    }
}
