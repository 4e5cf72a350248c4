//! # Tests of the probe's driver
//!
//! Job: run the driver against real HTTP/2 servers over in-memory streams.
//! May touch: the paused clock. Callers: cargo.

use super::*;
use crate::Host;
use futures::future::BoxFuture;
use hyper::{Response, server::conn::http2, service::service_fn};
use parking_lot::Mutex;
use std::{convert::Infallible, num::NonZeroU16};

/// A gateway in memory: says `status`, counts connections, can be closed.
#[derive(Clone)]
struct Gate {
    state: Arc<Mutex<State>>,
}

struct State {
    status: Result<u16, Failure>,
    connections: usize,
    servers: Vec<JoinHandle<()>>,
}

impl Gate {
    fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State { status: Ok(200), connections: 0, servers: vec![] })),
        }
    }

    fn set(&self, status: Result<u16, Failure>) {
        self.state.lock().status = status;
    }

    fn close(&self) {
        self.state.lock().servers.drain(..).for_each(|s| s.abort());
    }
}

impl Dial for Gate {
    fn dial(&self, _: SocketAddr, _: &Identity) -> BoxFuture<'static, Result<Stream, Failure>> {
        let gate = self.clone();
        Box::pin(async move {
            gate.state.lock().status.clone()?;
            let (ours, theirs) = tokio::io::duplex(65536);
            let status = gate.state.clone();
            let answer = service_fn(move |_| {
                let status = status.lock().status.clone().unwrap_or(500);
                async move {
                    let response = Response::builder().status(status).body(Empty::<Bytes>::new());
                    Ok::<_, Infallible>(response.unwrap())
                }
            });
            let server = tokio::spawn(async move {
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(theirs), answer)
                    .await;
            });
            let mut state = gate.state.lock();
            state.connections += 1;
            state.servers.push(server);
            Ok(Box::new(ours) as Stream)
        })
    }
}

fn start(gate: &Gate) -> (watch::Receiver<Report>, JoinHandle<()>) {
    let probe = Probe {
        path: "/ready".into(),
        port: NonZeroU16::new(4191).unwrap(),
        period: Duration::from_secs(3),
        timeout: Duration::from_secs(30),
        threshold: 3,
    };
    let gateway = Gateway {
        hosts: vec![Host::Ip([10, 0, 0, 1].into())],
        port: NonZeroU16::new(4143).unwrap(),
        identity: "gw.ns.serviceaccount.identity.linkerd.cluster.local".parse().unwrap(),
        probe: Some(probe.clone()),
    };
    let (addresses, _task) = crate::addresses::spawn(gateway.hosts.clone(), 4143, None);
    spawn(&gateway, &probe, addresses, Arc::new(gate.clone()))
}

// proves: PRB-5
#[tokio::test(start_paused = true)]
async fn one_connection_serves_many_attempts() {
    let gate = Gate::new();
    let (mut report, _task) = start(&gate);
    report.wait_for(|r| r.successes >= 5).await.unwrap();
    assert_eq!(gate.state.lock().connections, 1);
    assert_eq!(report.borrow().health, Health::Alive);
}

// proves: PRB-2, PRB-3
#[tokio::test(start_paused = true)]
async fn a_closed_gateway_is_dead_within_a_second_and_back_at_the_first_answer() {
    let gate = Gate::new();
    let (mut report, _task) = start(&gate);
    report.wait_for(|r| r.health == Health::Alive).await.unwrap();
    tokio::time::advance(Duration::from_millis(1500)).await;
    gate.set(Err(Failure::Tcp("refused".into())));
    gate.close();
    let closed = Instant::now();
    report.wait_for(|r| r.health == Health::Dead).await.unwrap();
    assert!(closed.elapsed() <= Duration::from_secs(1), "{:?}", closed.elapsed());
    assert_eq!(report.borrow().failure, Some(Failure::Tcp("refused".into())));
    gate.set(Ok(200));
    let back = Instant::now();
    report.wait_for(|r| r.health == Health::Alive).await.unwrap();
    assert!(back.elapsed() <= Duration::from_millis(301), "{:?}", back.elapsed());
}

// proves: PRB-2
#[tokio::test(start_paused = true)]
async fn a_draining_gateway_is_dead_though_it_answers() {
    let gate = Gate::new();
    let (mut report, _task) = start(&gate);
    report.wait_for(|r| r.health == Health::Alive).await.unwrap();
    gate.set(Ok(503));
    let report = report.wait_for(|r| r.health == Health::Dead).await.unwrap().clone();
    assert!(matches!(report.failure, Some(Failure::Http(_))), "{report:?}");
}
