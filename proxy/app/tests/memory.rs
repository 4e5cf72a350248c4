//! # Memory after a burst
//!
//! Two proxies as child processes, a client's and a server's, with mutual TLS between them; 1,000 connections
//! at once, each with a body that its reader does not take until all are there; then nothing more.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "binary/plane.rs"]
mod plane;

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_http::{Body, Service as HttpService};
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata, ProtocolHint, TlsTarget},
    profile::Profile,
};
use plane::{NAME, Plane, Proxy, Service, serve};
use std::{
    net::SocketAddr,
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 1000;
const BODY: usize = 64 * 1024;

/// Takes no body before it is told to, then gives it back.
#[derive(Clone)]
struct Holds {
    arrived: Arc<watch::Sender<usize>>,
    go: watch::Receiver<bool>,
}

impl HttpService for Holds {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, mesh_http::Error> {
        self.arrived.send_modify(|count| *count += 1);
        let mut go = self.go.clone();
        let body = request.into_body();
        let _ = go.wait_for(|go| *go).await;
        let whole = body.collect().await?.to_bytes();
        Ok(Response::new(Body::full(whole)))
    }
}

/// Sends a body and reads it back, on a connection of its own.
async fn exchange(to: SocketAddr) {
    let mut io = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "POST http://web.demo/ HTTP/1.1\r\nhost: web.demo\r\ncontent-length: {BODY}\r\nconnection: close\r\n\r\n"
    );
    let (mut read, mut write) = io.split();
    let sending = async {
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; BODY]).await.unwrap();
    };
    let reading = async {
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(sending, reading);
    let whole = answer.starts_with(b"HTTP/1.1 200") && answer.len() > BODY;
    assert!(
        whole,
        "{} {}",
        answer.len(),
        String::from_utf8_lossy(&answer[..answer.len().min(300)])
    );
}

/// Both ends of all connections are in this process; the proxies inherit the limit.
fn raise_file_limit() {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
}

/// Memory of the process that no file backs, in KiB.
fn anonymous(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

// proves: MEM-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_leaves_little_behind() {
    raise_file_limit();
    let (mut plane, go) = (Plane::start(true).await, watch::channel(true).0);
    // So many connections to the application at once take longer than the usual 300 ms on a busy machine.
    plane.env = vec![("LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT", "10s".to_owned())];
    let mut behind = plane.other();
    behind.env = plane.env.clone();
    let (client, server) = (Proxy::start(&plane).await, Proxy::start(&behind).await);
    client.until("/ready", 200).await;
    server.until("/ready", 200).await;
    let service = Holds { arrived: Arc::new(watch::channel(0).0), go: go.subscribe() };
    let mut arrived = service.arrived.subscribe();
    let app = serve(behind.ip, service).await;
    let metadata = EndpointMetadata {
        tls: Some(TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() }),
        hint: ProtocolHint::Http2,
        opaque_transport: NonZeroU16::new(server.inbound.port()),
        ..EndpointMetadata::default()
    };
    let fqn = Some("web.demo.svc.cluster.local".parse().unwrap());
    plane.service(
        "web.demo.svc.cluster.local",
        Service {
            endpoint: Endpoint { addr: app, metadata: Arc::new(metadata) },
            profile: Profile { fqn, ..Profile::default() },
            policy: None,
        },
    );
    for _ in 0..20 {
        exchange(client.outbound).await;
    }
    let proxies = [&client, &server];
    let before = proxies.map(anonymous);
    // Twice: what the first leaves behind serves the second.
    for _ in 0..2 {
        go.send_replace(false);
        let goal = *arrived.borrow_and_update() + CONNECTIONS;
        let burst: Vec<_> =
            (0..CONNECTIONS).map(|_| tokio::spawn(exchange(client.outbound))).collect();
        let all = arrived.wait_for(|count| *count == goal);
        tokio::time::timeout(PATIENCE, all).await.expect("all arrive").unwrap();
        let peak = proxies.map(anonymous);
        go.send_replace(true);
        for one in burst {
            tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap();
        }
        for (proxy, (before, peak)) in proxies.into_iter().zip(before.into_iter().zip(peak)) {
            assert!(peak > before * 2, "it was no burst: {before} KiB, then {peak} KiB");
            until_at_most(proxy, before + (peak - before) / 4).await;
        }
    }
}

/// Nothing flows meanwhile.
async fn until_at_most(proxy: &Proxy, bound: u64) {
    let start = Instant::now();
    while anonymous(proxy) > bound {
        let now = anonymous(proxy);
        assert!(start.elapsed() < PATIENCE, "{now} KiB after a burst, at most {bound} expected");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
