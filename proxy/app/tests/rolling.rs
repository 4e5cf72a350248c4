//! # Rolling restarts
//!
//! A client's proxy and two replicas of an application, each with a proxy of its own, mutual TLS between
//! them. Under 500 requests a second one replica after the other is replaced, and no request fails.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "rolling/fleet.rs"]
mod fleet;
#[path = "binary/plane.rs"]
mod plane;

use fleet::{BYTES, Fleet, HTTP, MESSAGE};
use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_http::Body;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const RESTARTS: usize = 3;
const CLIENTS: u32 = 10;
const RATE: u32 = 500;

/// How many requests went well, and what the others met.
#[derive(Default)]
struct Tally {
    well: u64,
    failed: Vec<String>,
}

/// A connection of a client.
enum Client {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
    Bytes(TcpStream),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http1,
    Http2,
    Bytes,
}

impl Client {
    async fn connect(kind: Kind, to: SocketAddr) -> Result<Self, String> {
        let mut io = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
        match kind {
            Kind::Http1 => {
                let made = http1::handshake(TokioIo::new(io)).await;
                let (send, connection) = made.map_err(|e| e.to_string())?;
                tokio::spawn(connection);
                Ok(Self::Http1(send))
            }
            Kind::Http2 => {
                let made = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await;
                let (send, connection) = made.map_err(|e| e.to_string())?;
                tokio::spawn(connection);
                Ok(Self::Http2(send))
            }
            Kind::Bytes => {
                let head = format!("CONNECT {BYTES}:80 HTTP/1.1\r\nhost: {BYTES}:80\r\n\r\n");
                io.write_all(head.as_bytes()).await.map_err(|e| e.to_string())?;
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    answer.push(io.read_u8().await.map_err(|e| format!("CONNECT: {e}"))?);
                }
                let answer = String::from_utf8_lossy(&answer);
                match answer.starts_with("HTTP/1.1 200") {
                    true => Ok(Self::Bytes(io)),
                    false => Err(answer.into_owned()),
                }
            }
        }
    }

    /// One exchange; whether the connection may carry another.
    async fn exchange(&mut self) -> Result<bool, String> {
        let request = || Request::get(format!("http://{HTTP}/")).header("host", HTTP);
        let response = match self {
            Self::Http1(send) => send.send_request(request().body(Body::empty()).unwrap()).await,
            Self::Http2(send) => send.send_request(request().body(Body::empty()).unwrap()).await,
            Self::Bytes(io) => {
                let message = [7; MESSAGE];
                io.write_all(&message).await.map_err(|e| format!("write: {e}"))?;
                let mut answer = [0; MESSAGE + 1];
                io.read_exact(&mut answer).await.map_err(|e| format!("read: {e}"))?;
                return Ok(answer[MESSAGE] == 0);
            }
        };
        let response = response.map_err(|e| e.to_string())?;
        if response.status() != 200 {
            return Err(format!("{} {:?}", response.status(), response.headers()));
        }
        response.into_body().collect().await.map_err(|e| format!("body: {e}"))?;
        Ok(match self {
            Self::Http1(send) => send.ready().await.is_ok(),
            Self::Http2(send) => send.ready().await.is_ok(),
            Self::Bytes(_) => true,
        })
    }
}

async fn load(kind: Kind, to: SocketAddr, stop: Arc<AtomicBool>, tally: Arc<Mutex<Tally>>) {
    let mut ticks = interval(Duration::from_secs(1) * CLIENTS / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        let exchange = async {
            let mut open = match client.take() {
                Some(open) => open,
                None => Client::connect(kind, to).await?,
            };
            if open.exchange().await? {
                client = Some(open);
            }
            Ok::<_, String>(())
        };
        let done = tokio::time::timeout(PATIENCE, exchange).await;
        let mut tally = tally.lock().unwrap();
        match done.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(()) => tally.well += 1,
            Err(reason) => tally.failed.push(reason),
        }
    }
}

async fn roll(kind: Kind) {
    let mut fleet = Fleet::start().await;
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    let to = fleet.client.outbound;
    let start = std::time::Instant::now();
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(load(kind, to, stop.clone(), tally.clone()))).collect();
    for _ in 0..RESTARTS {
        // Requests are under way on both replicas before one leaves.
        let before = tally.lock().unwrap().well;
        while tally.lock().unwrap().well < before + 200 {
            assert!(start.elapsed() < PATIENCE, "{kind:?}: the load does not flow");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fleet.restart_one().await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let elapsed = start.elapsed().as_secs_f64();
    let Tally { well, failed } = std::mem::take(&mut *tally.lock().unwrap());
    let rate = well as f64 / elapsed;
    assert!(failed.is_empty(), "{kind:?}: {} of {well} failed: {failed:?}", failed.len());
    assert!(well > 600, "{kind:?}: {well} requests, {rate:.0} a second");
    let (_, shown) = fleet.client.get("/metrics").await;
    assert!(!shown.contains("proxy_task_panics_total{"), "{shown}");
    fleet.end().await;
}

// proves: BAL-14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_http1_request_fails() {
    roll(Kind::Http1).await;
}

// proves: BAL-14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_http2_request_fails() {
    roll(Kind::Http2).await;
}

// proves: BAL-14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost() {
    roll(Kind::Bytes).await;
}
