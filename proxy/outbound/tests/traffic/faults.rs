//! # Faults of peers and clients
//!
//! Job: each fault is bounded in time and memory, and a metric shows it. Must not touch: anything but
//! loopback.

use crate::harness::*;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::{
    balance::Balancing,
    endpoint::EndpointMetadata,
    meta::Meta,
    outbound::{Backend, BackendKind, OutboundPolicy, OutboundRoute, Timeouts},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

pub(crate) const NAME: &str = "web.shop.svc.cluster.local:80";
pub(crate) const MS: Duration = Duration::from_millis(1);

/// A peer that does what `act` does with each connection, behind a route with these limits.
pub(crate) async fn peer<F>(
    timeouts: Timeouts,
    act: impl Fn(TcpStream) -> F + Send + 'static,
) -> (Rig, SocketAddr)
where
    F: Future<Output = ()> + Send + 'static,
{
    let rig = Rig::with(|config| {
        config.balance.failfast = MS * 500;
        config.tcp_failfast = MS * 500;
    });
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(act(io));
        }
    });
    rig.known.service(NAME, false, plain(addr));
    let meta = Meta::built_in("web");
    let kind =
        BackendKind::Balance { addr: NAME.parse().unwrap(), balancing: Balancing::default() };
    let mut route = OutboundRoute::to(meta.clone(), Backend::new(meta.clone(), kind));
    route.rules[0].timeouts = timeouts;
    let policy = OutboundPolicy::detect(meta, Duration::from_secs(10), route);
    put(&rig.known.policies, NAME, policy);
    let entrance = rig.entrance(NAME).await;
    (rig, entrance)
}

pub(crate) fn get() -> Request<Body> {
    Request::get("/some/path").header("host", "web").body(Body::empty()).unwrap()
}

/// A line of the scrape that has all of these.
pub(crate) fn told(rig: &Rig, parts: &[&str]) -> bool {
    let shown = String::from_utf8(rig.metrics.text()).unwrap();
    shown.lines().any(|line| parts.iter().all(|part| line.contains(part)) && !line.ends_with(" 0"))
}

// proves: FAULT-1
#[tokio::test]
async fn a_peer_that_accepts_and_is_silent() {
    let limits = Timeouts { response: Some(MS * 200), ..Timeouts::default() };
    let (rig, entrance) = peer(limits, |io| async move {
        let _held = io;
        std::future::pending().await
    })
    .await;
    let start = Instant::now();
    let response = h1(entrance).await.send_request(get()).await.unwrap();
    assert_eq!(response.status(), 504);
    assert!(start.elapsed() < MS * 2000, "{:?}", start.elapsed());
    let family = "outbound_http_errors_total{";
    until("it is counted", || told(&rig, &[family, "response timeout"])).await;
}

// proves: FAULT-2
#[tokio::test]
async fn a_peer_that_falls_silent_in_the_middle() {
    let limits = Timeouts { idle: Some(MS * 1000), ..Timeouts::default() };
    let (rig, entrance) = peer(limits, |mut io| async move {
        let _ = read_head(&mut io).await;
        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
        std::future::pending().await
    })
    .await;
    let response = h1(entrance).await.send_request(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    let start = Instant::now();
    assert!(response.into_body().collect().await.is_err(), "the client learns of it");
    assert!(start.elapsed() < MS * 4000, "{:?}", start.elapsed());
    let family = "outbound_http_route_request_statuses_total{";
    until("it is counted", || told(&rig, &[family, "IDLE_TIMEOUT"])).await;
}

// proves: FAULT-3
#[tokio::test]
async fn a_peer_that_resets_in_the_middle() {
    let (rig, entrance) = peer(Timeouts::default(), |mut io| async move {
        let _ = read_head(&mut io).await;
        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
        let raw = socket2::SockRef::from(&io);
        raw.set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let response = h1(entrance).await.send_request(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err(), "the client learns of it");
    let parts = ["response_total{", r#"classification="failure""#, r#"error="unclassified""#];
    until("it is counted", || told(&rig, &parts)).await;
}

// proves: FAULT-4
#[tokio::test]
async fn a_client_that_does_not_read_holds_the_server_back() {
    const PIECE: usize = 64 * 1024;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let server = serve(HttpVersion::Http1, move |_| {
        let counted = counted.clone();
        let pieces = futures::stream::repeat_with(move || {
            counted.fetch_add(PIECE, Ordering::SeqCst);
            Ok(http_body::Frame::data(vec![0; PIECE].into()))
        });
        async move { Response::new(Body::boxed(StreamBody::new(pieces))) }
    });
    let rig = Rig::new();
    rig.known.service(NAME, false, plain(server.await));
    let mut io = TcpStream::connect(rig.entrance(NAME).await).await.unwrap();
    io.write_all(b"GET /some/path HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    // Until nothing moves for a while: buffers of sockets and proxy are full.
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < MS * 300 {
        let now = taken.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(now < 64 << 20, "{now} bytes were taken for a client that does not read");
        tokio::time::sleep(MS * 5).await;
    }
    assert!(last > 0);
    drop(io);
    let open = "tcp_open_connections{";
    let closed = || !told(&rig, &[open, r#"peer="dst""#]);
    until("both sides are closed", closed).await;
}

// proves: FAULT-5
#[tokio::test]
async fn a_client_that_writes_byte_by_byte() {
    let server = serve(HttpVersion::Http1, echo).await;
    let rig = Rig::new();
    rig.known.service(NAME, false, plain(server));
    let mut io = TcpStream::connect(rig.entrance(NAME).await).await.unwrap();
    io.set_nodelay(true).unwrap();
    let request = b"POST /some/path HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\
        connection: close\r\n\r\nbody";
    for byte in request {
        io.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("body"), "{all}");
    assert!(told(&rig, &["outbound_tcp_detect_http_results_total{", r#"result="http/1""#]));
}

// proves: FAULT-6
#[tokio::test]
async fn peers_that_refuse_are_gone_around_and_bounded() {
    let rig = Rig::with(|config| {
        config.balance.failfast = MS * 500;
        config.tcp_failfast = MS * 500;
    });
    let (gone, dead) = bind().await;
    drop(gone);
    rig.known.service(NAME, false, plain(dead));
    let start = Instant::now();
    let response = h1(rig.entrance(NAME).await).await.send_request(get()).await.unwrap();
    assert_eq!(response.status(), 504);
    assert!(start.elapsed() < MS * 3000, "{:?}", start.elapsed());
    assert!(told(&rig, &["outbound_http_errors_total{", "failfast"]));
    let alive = serve(HttpVersion::Http1, echo).await;
    let both = [(dead, EndpointMetadata::default()), (alive, EndpointMetadata::default())];
    rig.known.set(NAME, set(&both));
    let entrance = rig.entrance(NAME).await;
    for _ in 0..20 {
        let status = h1(entrance).await.send_request(get()).await.unwrap().status();
        assert_eq!(status, 200);
    }
}
