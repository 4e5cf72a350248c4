//! # Endpoints that fail
//!
//! Job: breakers, penalties and the choice of balancer as a policy asks for them. Must not touch: anything
//! but loopback.

use crate::harness::*;
use http::{Request, Response};
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::{
    balance::{Accrual, Algorithm, Balancing, Penalty, Probation},
    endpoint::EndpointMetadata,
    meta::Meta,
    outbound::{
        Backend, BackendKind, HttpPolicy, OutboundPolicy, OutboundProtocol, OutboundRoute, Retry,
    },
    response::StatusRanges,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

const NAME: &str = "web.shop.svc.cluster.local:80";

fn policy(balancing: Balancing, accrual: Option<Accrual>, retry: Option<Retry>) -> OutboundPolicy {
    let meta = Meta::built_in("web");
    let kind = BackendKind::Balance { addr: NAME.parse().unwrap(), balancing };
    let mut route = OutboundRoute::to(meta.clone(), Backend::new(meta.clone(), kind));
    route.rules[0].retry = retry;
    let routes: Arc<[_]> = Arc::new([route]);
    let http = HttpPolicy { routes: routes.clone(), accrual };
    let protocol = OutboundProtocol::detect(Duration::from_secs(10), http, routes);
    OutboundPolicy { parent: meta, protocol }
}

fn quick() -> Accrual {
    let ms = Duration::from_millis;
    let backoff = Probation { min: ms(300), max: ms(300), jitter: 0, ..Probation::default() };
    Accrual { max_failures: 3, backoff, ..Accrual::consecutive() }
}

/// A server that can be told to fail, and counts.
struct Server {
    addr: SocketAddr,
    bad: Arc<AtomicBool>,
    seen: Arc<AtomicUsize>,
}

impl Server {
    async fn start(bad: bool) -> Self {
        let (bad, seen) = (Arc::new(AtomicBool::new(bad)), Arc::new(AtomicUsize::new(0)));
        let (is_bad, counted) = (bad.clone(), seen.clone());
        let addr = serve(HttpVersion::Http1, move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let status = if is_bad.load(Ordering::SeqCst) { 500 } else { 200 };
            async move { Response::builder().status(status).body(Body::empty()).unwrap() }
        });
        Self { addr: addr.await, bad, seen }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

fn rig(servers: &[&Server], policy: OutboundPolicy) -> Rig {
    let rig = Rig::with(|config| config.balance.failfast = Duration::from_millis(200));
    let endpoints: Vec<_> = servers.iter().map(|s| (s.addr, EndpointMetadata::default())).collect();
    rig.known.service(NAME, false, set(&endpoints));
    put(&rig.known.policies, NAME, policy);
    rig
}

async fn send(rig: &Rig) -> impl AsyncFnMut() -> u16 + use<> {
    let entrance = rig.entrance(NAME).await;
    async move || {
        let mut client = h1(entrance).await;
        let request = Request::get("/some/path").header("host", "web").body(Body::empty());
        client.send_request(request.unwrap()).await.unwrap().status().as_u16()
    }
}

fn pending(rig: &Rig) -> Option<u64> {
    let shown = String::from_utf8(rig.metrics.text()).unwrap();
    let line = shown.lines().find(|line| {
        line.starts_with("outbound_http_balancer_endpoints{")
            && line.contains(r#"endpoint_state="pending""#)
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

// proves: BRK-1 BRK-2
#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_comes_back() {
    let (good, bad) = (Server::start(false).await, Server::start(true).await);
    let rig = rig(&[&good, &bad], policy(Balancing::default(), Some(quick()), None));
    let mut send = send(&rig).await;
    let mut failures = 0;
    for _ in 0..60 {
        failures += usize::from(send().await == 500);
    }
    // Three break it; a probe or two may fall into the time of the test.
    assert!((3..=6).contains(&failures), "{failures}");
    assert_eq!(bad.seen(), failures);
    assert_eq!(pending(&rig), Some(1), "it counts as pending");
    bad.bad.store(false, Ordering::SeqCst);
    let before = bad.seen();
    let deadline = Instant::now() + PATIENCE;
    while bad.seen() < before + 5 {
        assert_eq!(send().await, 200);
        assert!(Instant::now() < deadline, "the endpoint is not used again");
    }
    assert_eq!(pending(&rig), Some(0));
}

// proves: BRK-7
#[tokio::test]
async fn with_all_endpoints_broken_requests_fail_fast_until_a_probe_succeeds() {
    let bad = Server::start(true).await;
    let rig = rig(&[&bad], policy(Balancing::default(), Some(quick()), None));
    let mut send = send(&rig).await;
    for _ in 0..3 {
        assert_eq!(send().await, 500);
    }
    assert_eq!((send().await, bad.seen()), (504, 3), "none is ready within the fail-fast time");
    bad.bad.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + PATIENCE;
    while send().await != 200 {
        assert!(Instant::now() < deadline, "no probe was sent");
    }
    assert_eq!(send().await, 200);
}

// proves: BRK-5
#[tokio::test]
async fn a_floor_keeps_serving_when_all_fail() {
    let bad = Server::start(true).await;
    let accrual = Accrual { min_ready: 1, ..quick() };
    let rig = rig(&[&bad], policy(Balancing::default(), Some(accrual), None));
    let mut send = send(&rig).await;
    for _ in 0..8 {
        assert_eq!(send().await, 500, "the server's own answer, not ours");
    }
}

// proves: BAL-8
#[tokio::test]
async fn an_endpoint_that_fails_fast_does_not_draw_the_load() {
    let (good, bad) = (Server::start(false).await, Server::start(true).await);
    let balancing = Balancing { penalty: Some(Penalty::default()), ..Balancing::default() };
    let rig = rig(&[&good, &bad], policy(balancing, None, None));
    let mut send = send(&rig).await;
    for _ in 0..50 {
        send().await;
    }
    assert!(bad.seen() <= 2, "{}", bad.seen());
}

// proves: BAL-7
#[tokio::test]
async fn a_policy_chooses_the_balancer() {
    let servers = [Server::start(false).await, Server::start(false).await];
    let balancing = Balancing { algorithm: Algorithm::RoundRobin, ..Balancing::default() };
    let rig = rig(&[&servers[0], &servers[1]], policy(balancing, None, None));
    let mut send = send(&rig).await;
    for _ in 0..40 {
        assert_eq!(send().await, 200);
    }
    assert_eq!(servers.map(|s| s.seen()), [20, 20]);
}

// proves: BAL-6
#[tokio::test]
async fn a_retry_never_lands_on_the_endpoint_that_just_failed() {
    let bad = Server::start(true).await;
    let good = [Server::start(false).await, Server::start(false).await];
    let retry =
        Retry { statuses: StatusRanges::server_errors(), backoff: None, ..Retry::default() };
    let rig = rig(&[&bad, &good[0], &good[1]], policy(Balancing::default(), None, Some(retry)));
    let mut send = send(&rig).await;
    for _ in 0..100 {
        assert_eq!(send().await, 200);
    }
    assert!(bad.seen() > 0, "some were tried there first");
}
