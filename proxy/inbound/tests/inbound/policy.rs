//! # What the policy of a port does to requests and connections

use crate::harness::*;
use http::{HeaderName, HeaderValue, StatusCode};
use mesh_model::{
    filter::{Failure, FailureKind, Filter, HeaderModifier, PathModifier, Ratio, Redirect},
    inbound::{
        Authentication, Authorization, DefaultPolicy, IdentityMatch, InboundRoute, InboundRule,
        RateLimit, RateOverride, ServerPolicy, ServerProtocol,
    },
    meta::{Meta, Resource},
    route::{PathMatch, RouteMatch},
};
use std::{num::NonZeroU32, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn resource(kind: &str, name: &str) -> Meta {
    let (group, kind, name) = ("policy.linkerd.io".into(), kind.into(), name.into());
    Meta::Resource(Resource { group, kind, name, ..Resource::default() }.into())
}

fn route(name: &str, prefix: &str, filters: Vec<Filter>) -> InboundRoute {
    let path = Some(PathMatch::Prefix(prefix.into()));
    let matches = vec![RouteMatch { path, ..RouteMatch::default() }];
    InboundRoute {
        meta: resource("HTTPRoute", name),
        hosts: Vec::new(),
        authorizations: Arc::new([]),
        rules: vec![InboundRule { matches, filters }],
    }
}

/// A Server object with these routes; what is let in is the default policy's.
fn server(default_policy: DefaultPolicy, routes: Vec<InboundRoute>) -> ServerPolicy {
    ServerPolicy {
        meta: resource("server", "web-http"),
        protocol: ServerProtocol::Http1(routes.into()),
        ..default(default_policy)
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
}

// proves: INB-9 INB-10 INB-14
#[tokio::test]
async fn routes_have_their_own_authorizations_and_series() {
    let only = |name: &str| Authorization {
        meta: resource("authorizationpolicy", name),
        networks: default(DefaultPolicy::AllUnauthenticated).authorizations[0].networks.clone(),
        authentication: Authentication::TlsAuthenticated(vec![IdentityMatch::Exact(
            name.parse().unwrap(),
        )]),
    };
    let mut open = route("open", "/open", Vec::new());
    open.authorizations = default(DefaultPolicy::AllUnauthenticated).authorizations;
    let mut peers = route("peers", "/peers", Vec::new());
    peers.authorizations = Arc::new([only(PEER)]);
    let mut strangers = route("strangers", "/strangers", Vec::new());
    strangers.authorizations = Arc::new([only("other.b")]);
    let pod = Pod::new(server(DefaultPolicy::Deny, vec![open, peers, strangers])).await;
    let status = async |path: &str, meshed: bool| {
        let answer = match meshed {
            true => converse(pod.meshed().await, &get(path)).await,
            false => converse(pod.redirected().await, &get(path)).await,
        };
        answer.get(9..12).unwrap_or_default().to_owned()
    };
    for (path, plain, meshed) in [
        ("/open", "200", "200"),
        ("/peers/x", "403", "200"),
        ("/strangers", "403", "403"),
        ("/elsewhere", "404", "404"),
    ] {
        assert_eq!(status(path, false).await, plain, "{path}");
        assert_eq!(status(path, true).await, meshed, "{path}");
    }
    let labels =
        "parent_group=\"policy.linkerd.io\",parent_kind=\"server\",parent_name=\"web-http\"";
    let port = pod.app.port();
    let peers = "route_group=\"policy.linkerd.io\",route_kind=\"HTTPRoute\",route_name=\"peers\"";
    for line in [
        format!("inbound_http_requests_total{{{labels},parent_port=\"{port}\",{peers}}} 1"),
        format!(
            "inbound_http_statuses_total{{{labels},parent_port=\"{port}\",{peers},status=\"200\"}} 1"
        ),
        "inbound_http_request_duration_seconds_count{".to_owned(),
        "inbound_http_response_frame_size_bytes_count{".to_owned(),
        format!("authz_name=\"{PEER}\""),
        "inbound_http_route_not_found_total{".to_owned(),
    ] {
        pod.counted(&line).await;
    }
}

// proves: INB-11
#[tokio::test]
async fn filters_change_redirect_and_fail() {
    let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let told = HeaderModifier { set: vec![pair("user-agent", "changed")], ..Default::default() };
    let moved = Redirect {
        scheme: None,
        host: Some("other".into()),
        port: None,
        path: Some(PathModifier::Prefix("/new".into())),
        status: StatusCode::FOUND,
    };
    let teapot = Failure {
        kind: FailureKind::Http(StatusCode::IM_A_TEAPOT),
        message: "by policy".into(),
        ratio: Ratio::ALL,
    };
    let pod = Pod::new(server(
        DefaultPolicy::AllUnauthenticated,
        vec![
            route("told", "/told", vec![Filter::RequestHeaders(told)]),
            route("moved", "/old", vec![Filter::Redirect(moved)]),
            route("made", "/made", vec![Filter::Fail(teapot)]),
            route("broken", "/broken", vec![Filter::Unusable("what is this".into())]),
        ],
    ))
    .await;
    let answer = converse(pod.meshed().await, &get("/told")).await;
    assert!(answer.contains("as changed"), "{answer}");
    let answer = converse(pod.meshed().await, &get("/old/x?y")).await;
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
    assert!(answer.contains("location: http://other/new/x?y"), "{answer}");
    let answer = converse(pod.meshed().await, &get("/made")).await;
    assert!(answer.starts_with("HTTP/1.1 418 "), "{answer}");
    assert!(answer.contains("configured to fail with 418") && answer.contains("by policy"));
    let answer = converse(pod.meshed().await, &get("/broken")).await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("what is this"), "{answer}");
    // They were allowed, and are shown by route.
    pod.counted("route_name=\"moved\",status=\"302\"} 1").await;
    pod.counted("route_name=\"made\",status=\"418\"} 1").await;
    assert!(!pod.shown().contains("inbound_http_errors_total{"));
}

// proves: RATE-1 RATE-2
#[tokio::test]
async fn requests_beyond_the_limit_are_429_and_the_connection_stays() {
    let number = |n| NonZeroU32::new(n).unwrap();
    let limit = RateLimit {
        meta: resource("httplocalratelimitpolicy", "gentle"),
        total: None,
        identity: Some(number(1000)),
        overrides: vec![RateOverride { limit: number(1), clients: vec![PEER.parse().unwrap()] }],
    };
    let mut policy = default(DefaultPolicy::AllUnauthenticated);
    policy.rate_limit = Some(Arc::new(limit));
    let pod = Pod::new(policy.clone()).await;
    let ask = GET.replace("connection: close\r\n", "");
    // Four at once, on one connection, are more than one a second, however slow this machine is.
    let answer = converse(pod.meshed().await, &format!("{ask}{ask}{ask}{GET}")).await;
    let count = |status: &str| answer.matches(status).count();
    assert!(count("HTTP/1.1 200") >= 1, "{answer}");
    assert!(count("HTTP/1.1 429") >= 2, "{answer}");
    assert!(answer.contains("override rate limit exceeded: 1rps"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
    pod.counted("ratelimit_group=\"policy.linkerd.io\",ratelimit_kind=\"httplocalratelimitpolicy\",ratelimit_name=\"gentle\",ratelimit_scope=\"identity\"").await;

    // A change elsewhere in the policy gives nobody a second helping.
    policy.authorizations = default(DefaultPolicy::AllAuthenticated).authorizations;
    pod.set(policy);
    let first = converse(pod.meshed().await, &format!("{ask}{GET}")).await;
    assert!(first.contains("HTTP/1.1 429"), "{first}");
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "others obey the change: {answer}");
}

// proves: INB-12
#[tokio::test]
async fn an_open_connection_ends_when_the_policy_turns_against_it() {
    let opaque = |policy: DefaultPolicy| policy.opaque_policy(&[]);
    let pod = Pod::new(opaque(DefaultPolicy::AllUnauthenticated)).await;
    let mut io = pod.redirected().await;
    let mut byte = [0];
    for _ in 0..2 {
        io.write_all(b"x").await.unwrap();
        io.read_exact(&mut byte).await.unwrap();
        // Still let in, by another name.
        pod.set(opaque(DefaultPolicy::Audit));
    }
    assert!(!pod.shown().contains("inbound_tcp_authz_terminate_total{"));
    pod.set(opaque(DefaultPolicy::Deny));
    let read = tokio::time::timeout(PATIENCE, io.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    pod.counted("inbound_tcp_authz_terminate_total{").await;
    pod.counted("srv_name=\"deny\"").await;
}

// proves: INB-13
#[tokio::test]
async fn audit_lets_in_and_shows_whom() {
    let pod = Pod::new(default(DefaultPolicy::Audit)).await;
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    pod.counted("authz_group=\"\",authz_kind=\"default\",authz_name=\"audit\"").await;
}
