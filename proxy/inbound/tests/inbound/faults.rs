//! # Faults of clients and of the application
//!
//! Job: each is bounded in time and memory, leaves no task behind, and a metric shows it.

use crate::harness::*;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_http::{Body, Error, ServerParams, Service, detect::HttpVersion};
use mesh_model::inbound::DefaultPolicy;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

const MS: Duration = Duration::from_millis(1);
/// More than this is never in flight for somebody who does not read: socket buffers and the proxy's own.
const BOUND: usize = 64 << 20;

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(MS * 2).await;
    }
}

/// Waits until as many tasks are left as there were, give or take those of caches.
async fn until_calm(before: usize) {
    until("tasks have ended", || tasks() <= before + 4).await;
}

/// A Pod whose application does what `act` does with each connection.
async fn pod<F>(act: impl Fn(TcpStream) -> F + Send + 'static) -> Pod
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    pod.app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(act(io));
        }
    });
    pod
}

/// Answers with a body that never ends; counts what is taken of it, and how many of its bodies are open.
#[derive(Clone, Default)]
struct Endless {
    taken: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// Counts until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Endless {
    async fn call(&self, _: Request<Body>) -> Result<Response<Body>, Error> {
        const PIECE: usize = 64 * 1024;
        let (taken, open) = (self.taken.clone(), Open::new(&self.open));
        let pieces = futures::stream::repeat_with(move || {
            let _ = &open;
            taken.fetch_add(PIECE, Ordering::SeqCst);
            Ok(http_body::Frame::data(vec![0; PIECE].into()))
        });
        Ok(Response::new(Body::boxed(StreamBody::new(pieces))))
    }
}

async fn endless() -> (Pod, Endless) {
    let app = Endless::default();
    let service = app.clone();
    let pod = pod(move |io| {
        let service = service.clone();
        async move {
            let (params, never) = (ServerParams::default(), std::future::pending());
            let (found, io) = mesh_http::detect::detect(io, PATIENCE).await.unwrap();
            let mesh_http::detect::Detected::Http(version) = found else { return };
            let _ = mesh_http::serve(io, version, &params, service, never).await;
        }
    });
    (pod.await, app)
}

/// Waits until nothing moves any more.
async fn until_full(taken: &AtomicUsize) {
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < MS * 300 {
        let now = taken.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(now < BOUND, "{now} bytes were taken for a client that does not read");
        tokio::time::sleep(MS * 5).await;
    }
    assert!(last > 0);
}

fn open_to_app(shown: &str) -> bool {
    let open = |line: &&str| {
        line.starts_with("tcp_open_connections{direction=\"inbound\",peer=\"dst\"")
            && !line.ends_with(" 0")
    };
    shown.lines().any(|line| open(&line))
}

// proves: FAULT-4
#[tokio::test]
async fn a_client_that_does_not_read_holds_the_application_back() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let (pod, app) = endless().await;
        let io = TokioIo::new(pod.meshed().await);
        let request = Request::get("http://web/").header("host", "web").body(Body::empty());
        let request = request.unwrap();
        // The response is held, and its body is not read.
        let (response, client) = match version {
            HttpVersion::Http1 => {
                let (mut send, io) = hyper::client::conn::http1::handshake(io).await.unwrap();
                let client = tokio::spawn(async move { drop(io.await) });
                (send.send_request(request).await.unwrap(), client)
            }
            HttpVersion::Http2 => {
                let executor = TokioExecutor::new();
                let (mut send, io) =
                    hyper::client::conn::http2::handshake(executor, io).await.unwrap();
                let client = tokio::spawn(async move { drop(io.await) });
                (send.send_request(request).await.unwrap(), client)
            }
        };
        assert_eq!(response.status(), 200);
        until_full(&app.taken).await;
        assert_eq!(app.open.load(Ordering::SeqCst), 1);
        client.abort();
        drop(response);
        let ended = format!("{version:?}: the application learns of it");
        until(&ended, || app.open.load(Ordering::SeqCst) == 0).await;
    }
}

// proves: FAULT-12
#[tokio::test]
async fn a_silent_application_is_let_go_with_its_client() {
    let pod = pod(|mut io| async move {
        let _ = io.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let before = tasks();
    for _ in 0..20 {
        let mut io = pod.redirected().await;
        io.write_all(GET.as_bytes()).await.unwrap();
        until("the request has arrived", || open_to_app(&pod.shown())).await;
        drop(io);
    }
    until("the application's side is closed", || !open_to_app(&pod.shown())).await;
    pod.counted(r#"tcp_close_total{direction="inbound",peer="src""#).await;
    until_calm(before).await;
}

// proves: FAULT-3
#[tokio::test]
async fn an_application_that_resets_in_the_middle() {
    let pod = pod(|mut io| async move {
        let mut head = [0; 1024];
        let _ = io.read(&mut head).await;
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
        let _ = io.write_all(half).await;
        io.set_zero_linger().unwrap();
    })
    .await;
    let before = tasks();
    let io = TokioIo::new(pod.meshed().await);
    let (mut send, io) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(io);
    let request = Request::get("/").header("host", "web").body(Body::empty()).unwrap();
    let response = send.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err(), "the client learns of it");
    let failure = |shown: &str| {
        shown.lines().any(|line| {
            line.starts_with("response_total{direction=\"inbound\"")
                && line.contains(r#"classification="failure""#)
        })
    };
    until("it is counted", || failure(&pod.shown())).await;
    drop(send);
    until_calm(before).await;
}

/// Sends `said`, then nothing; the connection ends, by then at the latest, and is counted as this error.
async fn ends_in_time(said: &[u8], limit: Duration, error: &str) {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let before = tasks();
    let mut io: TcpStream = pod.redirected().await;
    io.write_all(said).await.unwrap();
    until("it is under way", || tasks() > before).await;
    // Real bytes have arrived; from here only timers move.
    tokio::time::sleep(MS * 50).await;
    tokio::time::pause();
    let start = Instant::now();
    let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut Vec::new())).await.expect("an end");
    assert!(start.elapsed() <= limit, "{:?}", start.elapsed());
    tokio::time::resume();
    pod.counted(&format!(r#"inbound_tcp_errors_total{{error="{error}","#)).await;
    until_calm(before).await;
}

// proves: FAULT-10
#[tokio::test]
async fn an_http2_preface_that_never_ends() {
    ends_in_time(b"PRI * HTTP/2.0\r\n", Duration::from_secs(11), "i/o").await;
}

// proves: FAULT-13
#[tokio::test]
async fn a_client_hello_that_never_ends() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03half a hello";
    ends_in_time(hello, Duration::from_secs(1), "tls detection timeout").await;
}

// proves: FAULT-5
#[tokio::test]
async fn a_client_that_writes_byte_by_byte() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let mut io = pod.redirected().await;
    io.set_nodelay(true).unwrap();
    for byte in GET.as_bytes() {
        io.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = converse(io, "").await;
    assert!(answer.ends_with("HTTP/1.1 from nobody"), "{answer}");
    pod.counted(r#"inbound_tcp_detect_http_results_total{result="http/1"} 1"#).await;
}
