//! # Tests of balancing over pipes
//!
//! Job: endpoints that are lost and told of again, with paused time. Callers: `cargo test`.

use super::*;
use crate::{
    client::ConnectFailure,
    detect::HttpVersion,
    observe::Unobserved,
    server::{self, ServerParams, Service},
};
use futures::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use mesh_model::{
    balance::Algorithm,
    endpoint::{EndpointMetadata, EndpointUpdate, ProtocolHint},
    transport::SessionProtocol,
};
use mesh_stack::{backoff::Backoff, io::BoxedIo};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// Servers behind pipes: which are up, and how often each was dialled.
#[derive(Clone, Default)]
struct Servers {
    up: Arc<Mutex<BTreeSet<SocketAddr>>>,
    dialled: Arc<Mutex<HashMap<SocketAddr, usize>>>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
}

/// Answers with its address.
#[derive(Clone)]
struct Echo(SocketAddr);

impl Service for Echo {
    async fn call(&self, _: Request<Body>) -> Result<Response<Body>, Error> {
        Ok(Response::new(Body::full(self.0.to_string())))
    }
}

impl Connect for Servers {
    fn connect(
        &self,
        endpoint: &Endpoint,
        protocol: SessionProtocol,
    ) -> BoxFuture<'static, Result<BoxedIo, ConnectFailure>> {
        let addr = endpoint.addr;
        *self.dialled.lock().entry(addr).or_default() += 1;
        if !self.up.lock().contains(&addr) {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            return std::future::ready(Err(refused.into())).boxed();
        }
        let version = match protocol {
            SessionProtocol::Http1 => HttpVersion::Http1,
            SessionProtocol::Http2 => HttpVersion::Http2,
        };
        let (near, far) = tokio::io::duplex(4096);
        self.open.fetch_add(1, SeqCst);
        let open = self.open.clone();
        tokio::spawn(async move {
            let (params, never) = (ServerParams::default(), std::future::pending());
            let _ = server::serve(far, version, &params, Echo(addr), never).await;
            open.fetch_sub(1, SeqCst);
        });
        std::future::ready(Ok(BoxedIo::new(near))).boxed()
    }
}

fn addr(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 80).into()
}

fn told(last: u8, hint: ProtocolHint) -> EndpointUpdate {
    let metadata = EndpointMetadata { hint, ..EndpointMetadata::default() };
    EndpointUpdate::Add(vec![Endpoint { addr: addr(last), metadata: Arc::new(metadata) }])
}

async fn request(balancer: &Balancer) -> SocketAddr {
    let request = Request::get("http://web/").body(Body::empty()).unwrap();
    let response = balancer.call(request, |_, _| Ok(())).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    std::str::from_utf8(&body).unwrap().parse().unwrap()
}

/// Of two endpoints one is lost, and is back when discovery tells of it again.
async fn lost_and_told_again(hint: ProtocolHint, between_two_looks: bool) {
    let servers = Servers::default();
    servers.up.lock().insert(addr(1));
    let (tell, sets) = watch::channel(EndpointSet::default());
    let mut params = BalanceParams::default();
    params.balancing.algorithm = Algorithm::RoundRobin;
    // Without a word from discovery it would take a minute.
    params.client.backoff = Backoff::new(MINUTE, MINUTE, 0.0).unwrap();
    let view = |set: &EndpointSet| Some(set.clone());
    let connect = Arc::new(servers.clone());
    let balancer = Balancer::new(sets, view, connect, Arc::new(Unobserved), params);
    tell.send_modify(|set| assert!(set.apply(told(1, hint))));
    // Who waits would ask all to hurry.
    request(&balancer).await;
    tell.send_modify(|set| assert!(set.apply(told(2, hint))));
    let dialled = |last| servers.dialled.lock().get(&addr(last)).copied().unwrap_or(0);
    while dialled(2) == 0 {
        assert_eq!(request(&balancer).await, addr(1));
    }
    servers.up.lock().extend([addr(2), addr(3)]);
    // News of others is no news of this one.
    tell.send_modify(|set| assert!(set.apply(told(3, hint))));
    tokio::time::sleep(MINUTE / 4).await;
    for _ in 0..100 {
        assert_ne!(request(&balancer).await, addr(2));
    }
    assert_eq!(dialled(2), 1);
    let start = Instant::now();
    tell.send_modify(|set| assert!(set.apply(EndpointUpdate::Remove(vec![addr(2)]))));
    if !between_two_looks {
        while balancer.endpoints().contains(&addr(2)) {
            tokio::task::yield_now().await;
        }
    }
    tell.send_modify(|set| assert!(set.apply(told(2, hint))));
    let mut tries = 0..1000;
    while request(&balancer).await != addr(2) {
        assert!(tries.next().is_some(), "{hint:?}, {between_two_looks}: it is not used");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// proves: BAL-15
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_discovery_tells_of_again_is_tried_at_once() {
    for hint in [ProtocolHint::Unknown, ProtocolHint::Http2] {
        for between_two_looks in [false, true] {
            lost_and_told_again(hint, between_two_looks).await;
        }
    }
}

// proves: BAL-1
#[tokio::test(start_paused = true)]
async fn a_withdrawn_endpoint_is_left_when_its_last_response_is_over() {
    for hint in [ProtocolHint::Unknown, ProtocolHint::Http2] {
        let servers = Servers::default();
        servers.up.lock().insert(addr(1));
        let (tell, sets) = watch::channel(EndpointSet::default());
        let view = |set: &EndpointSet| Some(set.clone());
        let (connect, params) = (Arc::new(servers.clone()), BalanceParams::default());
        let balancer = Balancer::new(sets, view, connect, Arc::new(Unobserved), params);
        tell.send_modify(|set| assert!(set.apply(told(1, hint))));
        let get = Request::get("http://web/").body(Body::empty()).unwrap();
        let response = balancer.call(get, |_, _| Ok(())).await.unwrap();
        let start = Instant::now();
        tell.send_modify(|set| assert!(set.apply(EndpointUpdate::Remove(vec![addr(1)]))));
        while !balancer.endpoints().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(servers.open.load(SeqCst), 1, "its response is under way");
        response.into_body().collect().await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let open = servers.open.load(SeqCst);
        assert_eq!((open, start.elapsed()), (0, Duration::ZERO), "{hint:?}");
    }
}
