//! # Balancing
//!
//! Job: endpoints that come, go, refuse and fall silent. Must not touch: anything but loopback.

use crate::harness::*;
use http::{Request, Response};
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::endpoint::{EndpointMetadata, EndpointSet, KeepAlive, ProtocolHint};
use mesh_stack::backoff::Backoff;
use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

const NAME: &str = "web.shop.svc.cluster.local:80";

fn hinted() -> EndpointMetadata {
    EndpointMetadata { hint: ProtocolHint::Http2, ..EndpointMetadata::default() }
}

fn get() -> Request<Body> {
    Request::get("http://web/some/path").body(Body::empty()).unwrap()
}

// proves: BAL-1
#[tokio::test]
async fn endpoints_come_and_go_under_load_without_a_failure() {
    let rig = Rig::new();
    let mut servers = Vec::new();
    for _ in 0..4 {
        let tag = servers.len().to_string();
        let server = serve(HttpVersion::Http2, move |_| {
            let tag = tag.clone();
            async move { Response::new(Body::full(tag)) }
        });
        servers.push((server.await, hinted()));
    }
    rig.known.service(NAME, false, set(&servers[..2]));
    let client = h2(rig.entrance(NAME).await).await;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let done = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..16)
        .map(|_| {
            let (mut client, stop, seen) = (client.clone(), stop.clone(), seen.clone());
            let done = done.clone();
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let response = client.send_request(get()).await.unwrap();
                    assert_eq!(response.status(), 200);
                    let tag = text(response.into_body()).await;
                    seen.lock().unwrap().insert(tag);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..40 {
        let from = round % 3;
        rig.known.set(NAME, set(&servers[from..from + 2]));
        let goal = done.load(Ordering::Relaxed) + 20;
        until("requests go on", || done.load(Ordering::Relaxed) >= goal).await;
    }
    stop.store(true, Ordering::Relaxed);
    futures::future::join_all(load).await.into_iter().for_each(|ended| ended.unwrap());
    assert_eq!(seen.lock().unwrap().len(), 4);
}

// proves: BAL-2
#[tokio::test]
async fn what_no_peer_has_seen_is_sent_again() {
    let rig = Rig::new();
    let refused = Arc::new(AtomicUsize::new(0));
    let (listener, refusing) = bind().await;
    let counted = refused.clone();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut connection = ::h2::server::handshake(io).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(::h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    let good = serve(HttpVersion::Http2, echo).await;
    rig.known.service(NAME, false, set(&[(refusing, hinted()), (good, hinted())]));
    let mut client = h2(rig.entrance(NAME).await).await;
    for _ in 0..60 {
        let request = Request::post("http://web/echo").body(Body::full("body")).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(text(response.into_body()).await, "body");
    }
    assert!(refused.load(Ordering::SeqCst) > 0);
}

// proves: BAL-2
#[tokio::test]
async fn a_peer_that_drains_costs_no_request() {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = ::h2::server::handshake(io).await.unwrap();
                let mut served = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                    served += 1;
                    if served == 5 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    rig.known.service(NAME, false, set(&[(addr, hinted())]));
    let mut client = h2(rig.entrance(NAME).await).await;
    for at in 0..40 {
        let response = client.send_request(get()).await.unwrap();
        assert_eq!(response.status(), 200, "{at}: {:?}", response.headers());
    }
}

// proves: BAL-3
#[tokio::test]
async fn a_peer_that_is_back_is_found_by_the_first_who_needs_it() {
    let rig = Rig::with(|config| {
        config.balance.failfast = Duration::from_secs(20);
        // The backoff alone would find it after a minute.
        let minute = Duration::from_secs(60);
        config.balance.client.backoff = Backoff::new(minute, minute, 0.0).unwrap();
    });
    let (listener, addr) = bind().await;
    drop(listener);
    rig.known.service(NAME, false, set(&[(addr, hinted())]));
    let mut client = h2(rig.entrance(NAME).await).await;
    let waiting = tokio::spawn(async move { client.send_request(get()).await.unwrap().status() });
    let queued = |rig: &Rig| {
        let shown = String::from_utf8(rig.metrics.text()).unwrap();
        let length = |line: &str| line.starts_with("outbound_http_balancer_queue_length{");
        shown.lines().any(|line| length(line) && line.ends_with(" 1"))
    };
    until("the request waits", || queued(&rig)).await;
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    let back = Instant::now();
    tokio::spawn(serve_on(listener, HttpVersion::Http2, echo));
    assert_eq!(waiting.await.unwrap(), 200);
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
}

// proves: BAL-4
#[tokio::test]
async fn a_silent_peer_that_is_withdrawn_ends_its_requests() {
    let keep_alive = KeepAlive {
        interval: Duration::from_secs(3600),
        timeout: Duration::from_millis(200),
        while_idle: true,
    };
    silent_peer(keep_alive, true).await;
}

// proves: BAL-4
#[tokio::test]
async fn a_silent_peer_is_noticed_by_pings() {
    let keep_alive = KeepAlive {
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(200),
        while_idle: true,
    };
    silent_peer(keep_alive, false).await;
}

/// A peer takes a request and then says nothing more, not even to PINGs.
async fn silent_peer(keep_alive: KeepAlive, withdraw: bool) {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    let taken = Arc::new(AtomicBool::new(false));
    let noted = taken.clone();
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = ::h2::server::handshake(io).await.unwrap();
        let request = connection.accept().await.unwrap().unwrap();
        noted.store(true, Ordering::SeqCst);
        let _held = (request, connection, listener);
        std::future::pending::<()>().await;
    });
    let mut metadata = hinted();
    metadata.http2.keep_alive = Some(keep_alive);
    rig.known.service(NAME, false, set(&[(addr, metadata)]));
    let mut client = h2(rig.entrance(NAME).await).await;
    let request = tokio::spawn(async move { client.send_request(get()).await.unwrap() });
    until("the peer has the request", || taken.load(Ordering::SeqCst)).await;
    let start = Instant::now();
    if withdraw {
        rig.known.set(NAME, EndpointSet::default());
    }
    let response = tokio::time::timeout(PATIENCE, request).await.expect("no hang").unwrap();
    assert_eq!(response.status(), 502);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

// proves: BAL-5
#[tokio::test]
async fn metrics_tell_of_requests_and_connections() {
    let rig = Rig::new();
    let server: SocketAddr = serve(HttpVersion::Http1, echo).await;
    let mut metadata = EndpointMetadata::default();
    let labels = [("service".to_owned(), "web".to_owned())];
    metadata.labels = Arc::new(labels.into_iter().collect());
    rig.known.service(NAME, false, set(&[(server, metadata)]));
    let mut client = h1(rig.entrance(NAME).await).await;
    let request = Request::get("/some/path").header("host", "web").body(Body::empty()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    text(response.into_body()).await;
    let scrape = || {
        let shown = String::from_utf8(rig.metrics.text()).unwrap();
        let found = shown.lines().find(|line| line.starts_with("response_total{"));
        found.map(str::to_owned).unwrap_or_default()
    };
    until("the response is counted", || scrape().contains("dst_service")).await;
    let scraped = scrape();
    for part in ["outbound", "web.shop.svc.cluster.local:80", "success"] {
        assert!(scraped.contains(part), "{part} in {scraped}");
    }
}

// proves: BAL-1
#[tokio::test]
async fn ten_thousand_requests_at_concurrency_64() {
    for (version, metadata) in
        [(HttpVersion::Http1, EndpointMetadata::default()), (HttpVersion::Http2, hinted())]
    {
        let rig = Rig::new();
        let server = serve(version, echo).await;
        rig.known.service(NAME, false, set(&[(server, metadata)]));
        let entrance = rig.entrance(NAME).await;
        let clients = (0..64).map(|_| async move {
            let mut client = h1(entrance).await;
            for at in 0..79 {
                client.ready().await.unwrap();
                let request = Request::post("/echo/some").header("host", "web");
                let request = request.body(Body::full(format!("request {at}"))).unwrap();
                let response = client.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                assert_eq!(text(response.into_body()).await, format!("request {at}"));
            }
        });
        futures::future::join_all(clients).await;
    }
}

// proves: TCP-2 BAL-3
#[tokio::test]
async fn http1_goes_around_a_refusing_endpoint() {
    let rig = Rig::new();
    let (gone, dead) = bind().await;
    drop(gone);
    let alive = serve(HttpVersion::Http1, echo).await;
    let plain = EndpointMetadata::default();
    rig.known.service(NAME, false, set(&[(dead, plain.clone()), (alive, plain.clone())]));
    let mut client = h1(rig.entrance(NAME).await).await;
    for _ in 0..20 {
        client.ready().await.unwrap();
        let request = Request::get("/some/path").header("host", "web").body(Body::empty()).unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    }
    // The dead one comes back and is the only one left.
    let listener = tokio::net::TcpListener::bind(dead).await.unwrap();
    tokio::spawn(serve_on(listener, HttpVersion::Http1, echo));
    rig.known.set(NAME, set(&[(dead, plain)]));
    client.ready().await.unwrap();
    let request = Request::get("/some/path").header("host", "web").body(Body::empty()).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
}

// proves: HTTP-4
#[tokio::test]
async fn a_single_destination_that_refuses_is_a_502_at_once() {
    let rig = Rig::new();
    let (gone, dead) = bind().await;
    drop(gone);
    let entrance = rig.entrance(&dead.to_string()).await;
    let start = Instant::now();
    let request = "GET /some/path HTTP/1.1\r\nHost: web\r\n\r\n";
    for _ in 0..2 {
        let response = converse(entrance, request).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        assert!(response.contains("Connection refused"), "{response}");
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    let listener = tokio::net::TcpListener::bind(dead).await.unwrap();
    tokio::spawn(serve_on(listener, HttpVersion::Http1, echo));
    let request = "GET /some/path HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    assert!(converse(entrance, request).await.starts_with("HTTP/1.1 200 "));
}

/// The number that a scrape tells of connections to endpoints.
fn connections(rig: &Rig, family: &str) -> Option<u64> {
    let shown = String::from_utf8(rig.metrics.text()).unwrap();
    let of_dst = |line: &&str| line.starts_with(family) && line.contains(r#"peer="dst""#);
    shown.lines().find(of_dst)?.rsplit(' ').next()?.parse().ok()
}

async fn ask(entrance: SocketAddr, version: HttpVersion) -> u16 {
    let response = match version {
        HttpVersion::Http2 => h2(entrance).await.send_request(get()).await,
        HttpVersion::Http1 => {
            let request = Request::get("/some/path").header("host", "web").body(Body::empty());
            h1(entrance).await.send_request(request.unwrap()).await
        }
    };
    let response = response.unwrap();
    let status = response.status().as_u16();
    text(response.into_body()).await;
    status
}

async fn one_server(version: HttpVersion, rig: &Rig) -> SocketAddr {
    let metadata = match version {
        HttpVersion::Http1 => EndpointMetadata::default(),
        HttpVersion::Http2 => hinted(),
    };
    rig.known.service(NAME, false, set(&[(serve(version, echo).await, metadata)]));
    rig.entrance(NAME).await
}

// proves: BAL-13
#[tokio::test]
async fn connections_are_not_kept_for_ever() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let rig = Rig::with(|config| {
            config.balance.client.http1_idle_timeout = Duration::from_millis(300);
            config.balance.client.http2_idle_timeout = Duration::from_millis(300);
        });
        let entrance = one_server(version, &rig).await;
        for _ in 0..2 {
            assert_eq!(ask(entrance, version).await, 200);
            let open = || connections(&rig, "tcp_open_connections{");
            until("the idle connection is closed", || open() == Some(0)).await;
        }
    }
}

// proves: BAL-13
#[tokio::test]
async fn an_old_connection_is_replaced_without_a_failure() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let rig = Rig::with(|config| config.balance.client.max_age = Duration::from_millis(200));
        let entrance = one_server(version, &rig).await;
        let deadline = Instant::now() + PATIENCE;
        while connections(&rig, "tcp_open_total{").is_none_or(|opened| opened < 4) {
            assert_eq!(ask(entrance, version).await, 200);
            assert!(Instant::now() < deadline, "{version:?}: it is never replaced");
        }
    }
}
