//! # Service profiles
//!
//! Job: routes, retries within a budget, response classes, timeouts and weighted targets of a profile.
//! Must not touch: anything but loopback.

use crate::harness::*;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::{
    endpoint::{EndpointMetadata, ProtocolHint},
    profile::{Profile, ProfileRoute, ProfileTarget, RequestMatch, RetryBudget},
    response::{ResponseClass, ResponseMatch},
    route::Pattern,
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const NAME: &str = "web.shop.svc.cluster.local:80";

fn route(path: &str) -> ProfileRoute {
    let labels = [("route".to_owned(), path.to_owned())];
    ProfileRoute {
        condition: RequestMatch::Path(Pattern::new(path).unwrap()),
        responses: Arc::default(),
        labels: Arc::new(labels.into()),
        retryable: true,
        timeout: None,
    }
}

fn web(routes: Vec<ProfileRoute>, budget: Option<RetryBudget>) -> Profile {
    let fqn = Some("web.shop.svc.cluster.local".parse().unwrap());
    Profile { fqn, routes: routes.into(), budget, ..Profile::default() }
}

/// A server that fails the first `failures` requests, behind a profile.
async fn failing(failures: usize, profile: Profile) -> (Rig, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let server = serve(HttpVersion::Http1, move |request: Request<Body>| {
        let nth = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let status = if nth < failures { 533 } else { 200 };
            Response::builder().status(status).body(Body::full(body)).unwrap()
        }
    });
    let rig = Rig::new();
    rig.known.service(NAME, false, plain(server.await));
    put(&rig.known.profiles, NAME, profile);
    (rig, seen)
}

async fn status_of(rig: &Rig, request: Request<Body>) -> u16 {
    let mut client = h1(rig.entrance(NAME).await).await;
    client.send_request(request).await.unwrap().status().as_u16()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "web").body(Body::empty()).unwrap()
}

fn shown(rig: &Rig) -> String {
    String::from_utf8(rig.metrics.text()).unwrap()
}

/// The value of the series whose line has all of `parts`.
fn value(rig: &Rig, parts: &[&str]) -> Option<u64> {
    let shown = shown(rig);
    let line = shown.lines().find(|line| parts.iter().all(|part| line.contains(part)))?;
    line.rsplit(' ').next()?.parse().ok()
}

// proves: PROF-1 PROF-5 PROF-7
#[tokio::test]
async fn a_failure_is_retried_where_the_route_says_so_and_counted() {
    let budget = Some(RetryBudget::default());
    let (rig, seen) = failing(1, web(vec![route("/again")], budget)).await;
    assert_eq!(status_of(&rig, get("/again")).await, 200);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    let labels = format!(r#"direction="outbound",dst="{NAME}",rt_route="/again""#);
    until("the response is counted", || {
        value(&rig, &["route_response_total{", &labels, "success"]) == Some(1)
    })
    .await;
    for (family, expected) in [
        ("route_request_total{", 1),
        ("route_actual_request_total{", 2),
        ("route_response_latency_ms_count{", 1),
    ] {
        assert_eq!(value(&rig, &[family, &labels]), Some(expected), "{family}\n{}", shown(&rig));
    }
    assert_eq!(value(&rig, &["route_actual_response_total{", &labels, "failure"]), Some(1));
    assert_eq!(value(&rig, &["route_retryable_total{", &labels, r#"skipped="""#]), Some(1));

    let (rig, seen) = failing(1, web(vec![route("/again")], budget)).await;
    assert_eq!(status_of(&rig, get("/other")).await, 533, "no route matches");
    let unretryable = ProfileRoute { retryable: false, ..route("/once") };
    put(&rig.known.profiles, NAME, web(vec![unretryable], budget));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

// proves: PROF-5 PROF-6
#[tokio::test]
async fn without_budget_nothing_is_retried() {
    let (rig, seen) = failing(1, web(vec![route("/again")], None)).await;
    assert_eq!(status_of(&rig, get("/again")).await, 533);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let empty = RetryBudget { ratio: 0, min_per_second: 0, ttl: Duration::from_secs(10) };
    let (rig, seen) = failing(1, web(vec![route("/again")], Some(empty))).await;
    assert_eq!(status_of(&rig, get("/again")).await, 533);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let parts = ["route_retryable_total{", r#"rt_route="/again""#, r#"skipped="no_budget""#];
    let skipped = value(&rig, &parts);
    assert_eq!(skipped, Some(1), "{}", shown(&rig));
}

// proves: PROF-4
#[tokio::test]
async fn a_short_body_is_sent_again_and_a_long_one_is_not() {
    let post = |body: Body| Request::post("/again").header("host", "web").body(body).unwrap();
    let streamed = |sizes: &'static [usize]| {
        let frames = sizes.iter().map(|n| Ok(http_body::Frame::data(vec![b'x'; *n].into())));
        Body::boxed(StreamBody::new(futures::stream::iter(frames)))
    };
    for (body, expected) in [
        (Body::full("short"), 200),
        (streamed(&[10, 20]), 200),
        (Body::full(vec![b'x'; 64 * 1024 + 1]), 533),
        (streamed(&[40_000, 40_000]), 533),
    ] {
        let (rig, seen) =
            failing(1, web(vec![route("/again")], Some(RetryBudget::default()))).await;
        assert_eq!(status_of(&rig, post(body)).await, expected);
        assert_eq!(seen.load(Ordering::SeqCst), if expected == 200 { 2 } else { 1 });
    }
}

// proves: PROF-3
#[tokio::test]
async fn response_classes_say_what_a_failure_is() {
    let class = |range, failure| ResponseClass { condition: ResponseMatch::Status(range), failure };
    let fine = ProfileRoute { responses: Arc::new([class(533..=533, false)]), ..route("/fine") };
    let (rig, seen) = failing(1, web(vec![fine], Some(RetryBudget::default()))).await;
    assert_eq!(status_of(&rig, get("/fine")).await, 533);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let parts = ["route_response_total{", r#"status_code="533",classification="success""#];
    until("it counts as a success", || value(&rig, &parts) == Some(1)).await;
}

// proves: PROF-2
#[tokio::test]
async fn a_route_has_a_timeout() {
    let server = serve(HttpVersion::Http1, |_| std::future::pending::<Response<Body>>()).await;
    let rig = Rig::new();
    rig.known.service(NAME, false, plain(server));
    let short = ProfileRoute { timeout: Some(Duration::from_millis(100)), ..route("/slow") };
    put(&rig.known.profiles, NAME, web(vec![short], None));
    let mut client = h1(rig.entrance(NAME).await).await;
    let response = client.send_request(get("/slow")).await.unwrap();
    assert_eq!(response.status(), 504);
    let reason = response.headers()["l5d-proxy-error"].to_str().unwrap().to_owned();
    assert!(reason.contains("HTTP response timeout after 100ms"), "{reason}");
    let parts = ["route_response_total{", r#"status_code="504""#, r#"error="timeout""#];
    assert_eq!(value(&rig, &parts), Some(1), "{}", shown(&rig));
}

// proves: PROF-4
#[tokio::test]
async fn grpc_failures_in_early_trailers_are_retried() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let server = serve(HttpVersion::Http2, move |_| {
        let nth = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", if nth == 0 { 14 } else { 0 }.into());
            let frames = [
                Ok(http_body::Frame::data("message".into())),
                Ok(http_body::Frame::trailers(trailers)),
            ];
            let body = Body::boxed(StreamBody::new(futures::stream::iter(frames)));
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    });
    let hinted = EndpointMetadata { hint: ProtocolHint::Http2, ..EndpointMetadata::default() };
    let rig = Rig::new();
    rig.known.service(NAME, false, set(&[(server.await, hinted)]));
    put(&rig.known.profiles, NAME, web(vec![route("/a.B/C")], Some(RetryBudget::default())));
    let mut client = h2(rig.entrance(NAME).await).await;
    let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let response = client.send_request(request.body(Body::full("ask")).unwrap()).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

// proves: PROF-8
#[tokio::test]
async fn weighted_targets_take_the_traffic_while_they_are_there() {
    let rig = Rig::new();
    let names = ["web", "apple", "pear"].map(|n| format!("{n}.shop.svc.cluster.local:80"));
    for name in &names {
        let tag = name.clone();
        let server = serve(HttpVersion::Http1, move |_| {
            let tag = tag.clone();
            async move { Response::new(Body::full(tag)) }
        });
        rig.known.service(name, false, plain(server.await));
    }
    let mut client = h1(rig.entrance(NAME).await).await;
    let mut share = async |weights: &[(usize, u32)]| {
        let target = |(n, weight): &(usize, u32)| ProfileTarget {
            addr: names[*n].parse().unwrap(),
            weight: *weight,
        };
        let targets: Vec<_> = weights.iter().map(target).collect();
        let profile = Profile { targets, ..web(Vec::new(), None) };
        rig.known.profiles.lock().unwrap()[NAME].send_replace(mesh_discover::State::Known(profile));
        let expected = weights.iter().find(|(_, weight)| *weight > 0).map_or(0, |(n, _)| *n);
        let mut hits = HashMap::<String, usize>::new();
        // Until the change has come through, then enough to see the shares.
        let mut left = usize::MAX;
        while left > 0 {
            client.ready().await.unwrap();
            let response = client.send_request(get("/")).await.unwrap();
            assert_eq!(response.status(), 200);
            let tag = text(response.into_body()).await;
            if left > 400 && tag == names[expected] {
                left = 400;
            } else if left <= 400 {
                *hits.entry(tag).or_default() += 1;
                left -= 1;
            }
        }
        names.each_ref().map(|name| hits.get(name).copied().unwrap_or_default())
    };
    assert_eq!(share(&[(1, 1)]).await, [0, 400, 0], "added");
    let [_, apple, pear] = share(&[(2, 3), (1, 1)]).await;
    assert!(pear > 250 && apple > 50, "{apple} {pear}");
    assert_eq!(share(&[(1, 0), (2, 1)]).await, [0, 0, 400], "weight 0 is unused");
    assert_eq!(share(&[(1, 0), (2, 0)]).await, [400, 0, 0], "all 0: the name itself");
    assert_eq!(share(&[(1, 1)]).await, [0, 400, 0]);
    assert_eq!(share(&[]).await, [400, 0, 0], "removed");
}

// proves: OUT-15
#[tokio::test]
async fn the_peer_is_told_the_canonical_name() {
    let (server, mut heads) =
        raw_server(b"HTTP/1.1 200 OK\r\nl5d-proxy-error: secret\r\ncontent-length: 0\r\n\r\n")
            .await;
    let rig = Rig::new();
    rig.known.service(NAME, false, plain(server));
    let ask = async || {
        let mut request = get("/a");
        let spoofed = http::HeaderValue::from_static("spoofed:1");
        request.headers_mut().insert("l5d-dst-canonical", spoofed);
        h1(rig.entrance(NAME).await).await.send_request(request).await.unwrap()
    };
    put(&rig.known.profiles, NAME, web(vec![route("/a")], None));
    let response = ask().await;
    assert!(!response.headers().contains_key("l5d-proxy-error"), "{response:?}");
    let head = heads.recv().await.unwrap();
    assert!(head.contains("l5d-dst-canonical: web.shop.svc.cluster.local:80\r\n"), "{head}");
    assert!(!head.contains("spoofed"), "{head}");
}

// proves: OUT-16
#[tokio::test]
async fn an_endpoint_of_this_pod_is_reached_as_it_is() {
    let (server, mut heads) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let rig = Rig::with(|config| {
        config.inbound_ips = [server.ip()].into();
    });
    let metadata = EndpointMetadata {
        tls: Some(tls()),
        hint: ProtocolHint::Http2,
        opaque_transport: std::num::NonZeroU16::new(1),
        ..EndpointMetadata::default()
    };
    rig.known.service(NAME, false, set(&[(server, metadata)]));
    assert_eq!(status_of(&rig, get("/a")).await, 200);
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head}");
    assert!(shown(&rig).contains(r#"no_tls_reason="loopback""#), "{}", shown(&rig));
}
