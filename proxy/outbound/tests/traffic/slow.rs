//! # Slow, stalled and abrupt peers and clients
//!
//! Job: each is bounded in time and memory, leaves no task behind, and a metric shows it.
//! Must not touch: anything but loopback.

use crate::{
    faults::{MS, NAME, get, peer, told},
    harness::*,
};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_http::{Body, ServerParams, detect::HttpVersion};
use mesh_model::outbound::Timeouts;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::Instant,
};

/// More than this is never in flight for somebody who does not read: socket buffers and the proxy's own.
const BOUND: usize = 64 << 20;

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Waits until as many tasks are left as there were, give or take those of caches.
async fn until_calm(before: usize) {
    until("tasks have ended", || tasks() <= before + 4).await;
}

/// A stream in segments of one byte.
struct Bytewise(TcpStream);

impl Bytewise {
    fn new(io: TcpStream) -> Self {
        io.set_nodelay(true).unwrap();
        Self(io)
    }
}

impl AsyncRead for Bytewise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bytewise {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

// proves: FAULT-7
#[tokio::test]
async fn a_server_that_does_not_read_holds_its_client_back() {
    let limits = Timeouts { idle: Some(MS * 700), ..Timeouts::default() };
    let (rig, entrance) = peer(limits, |mut io| async move {
        let _ = read_head(&mut io).await;
        std::future::pending().await
    })
    .await;
    let before = tasks();
    let mut io = TcpStream::connect(entrance).await.unwrap();
    io.write_all(b"POST /some/path HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000000\r\n\r\n")
        .await
        .unwrap();
    let (piece, mut sent) = (vec![0; 64 * 1024], 0);
    while let Ok(Ok(n)) = tokio::time::timeout(MS * 300, io.write(&piece)).await {
        sent += n;
        assert!(sent < BOUND, "{sent} bytes were taken for a server that does not read");
    }
    let start = Instant::now();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "open after {:?}", String::from_utf8_lossy(&answer));
    assert!(answer.starts_with(b"HTTP/1.1 504 "), "{:?}", String::from_utf8_lossy(&answer));
    assert!(start.elapsed() < MS * 4000, "{:?}", start.elapsed());
    let family = "outbound_http_route_request_statuses_total{";
    until("it is counted", || told(&rig, &[family, "IDLE_TIMEOUT"])).await;
    let open = ["tcp_open_connections{", r#"peer="dst""#];
    until("the server's side is closed", || !told(&rig, &open)).await;
    drop(io);
    until_calm(before).await;
}

// proves: FAULT-8
#[tokio::test]
async fn a_client_that_stalls_in_its_body() {
    let limits = Timeouts { idle: Some(MS * 500), ..Timeouts::default() };
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = ended.clone();
    let (rig, entrance) = peer(limits, move |mut io| {
        let seen = seen.clone();
        async move {
            let _ = read_head(&mut io).await;
            let _ = io.read_to_end(&mut Vec::new()).await;
            seen.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let before = tasks();
    let mut io = TcpStream::connect(entrance).await.unwrap();
    io.write_all(b"POST /some/path HTTP/1.1\r\nhost: web\r\ncontent-length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    let start = Instant::now();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 504 "), "{:?}", String::from_utf8_lossy(&answer));
    assert!(start.elapsed() < MS * 4000, "{:?}", start.elapsed());
    let family = "outbound_http_route_request_statuses_total{";
    until("it is counted", || told(&rig, &[family, "IDLE_TIMEOUT"])).await;
    until("the server learns of it", || ended.load(Ordering::SeqCst) == 1).await;
    until_calm(before).await;
}

/// An echo of one version over [`Bytewise`] streams.
async fn serve_bytewise(version: HttpVersion) -> SocketAddr {
    #[derive(Clone)]
    struct Echo;
    impl mesh_http::Service for Echo {
        async fn call(
            &self,
            request: Request<Body>,
        ) -> Result<http::Response<Body>, mesh_http::Error> {
            Ok(echo(request).await)
        }
    }
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let never = std::future::pending();
            tokio::spawn(async move {
                let params = ServerParams::default();
                mesh_http::serve(Bytewise::new(io), version, &params, Echo, never).await
            });
        }
    });
    addr
}

// proves: FAULT-9
#[tokio::test]
async fn segments_of_one_byte_on_both_sides() {
    let body: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
    let post = || {
        let request = Request::post("http://web/some/path").header("host", "web");
        request.body(Body::full(body.clone())).unwrap()
    };
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let rig = Rig::new();
        rig.known.service(NAME, false, plain(serve_bytewise(version).await));
        let io = TcpStream::connect(rig.entrance(NAME).await).await.unwrap();
        let io = TokioIo::new(Bytewise::new(io));
        let response = match version {
            HttpVersion::Http1 => {
                let (mut send, connection) =
                    hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                send.send_request(post()).await
            }
            HttpVersion::Http2 => {
                let executor = TokioExecutor::new();
                let (mut send, connection) =
                    hyper::client::conn::http2::handshake(executor, io).await.unwrap();
                tokio::spawn(connection);
                send.send_request(post()).await
            }
        };
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.unwrap().to_bytes() == body);
        let label = format!(r#"result="{}""#, version.as_str());
        assert!(told(&rig, &["outbound_tcp_detect_http_results_total{", &label]));
    }
}

// proves: FAULT-10
#[tokio::test]
async fn an_http2_preface_that_never_ends() {
    let rig = Rig::new();
    let entrance = rig.explicit().await;
    let before = tasks();
    let mut io = TcpStream::connect(entrance).await.unwrap();
    io.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let seen = ["outbound_tcp_detect_http_results_total{", r#"result="http/2""#];
    until("it is taken for HTTP/2", || told(&rig, &seen)).await;
    tokio::time::pause();
    let start = Instant::now();
    let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut Vec::new())).await.expect("an end");
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    tokio::time::resume();
    let counted = ["outbound_tcp_errors_total{", r#"error="i/o""#];
    until("it is counted", || told(&rig, &counted)).await;
    until_calm(before).await;
}

// proves: FAULT-11
#[tokio::test]
async fn peers_that_reset_whatever_they_accept() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    let (rig, entrance) = peer(Timeouts::default(), move |io| {
        counted.fetch_add(1, Ordering::SeqCst);
        let raw = socket2::SockRef::from(&io);
        raw.set_linger(Some(Duration::ZERO)).unwrap();
        async move { drop(io) }
    })
    .await;
    let before = tasks();
    let start = Instant::now();
    for _ in 0..10 {
        let response = h1(entrance).await.send_request(get()).await.unwrap();
        assert!([502, 504].contains(&response.status().as_u16()), "{}", response.status());
    }
    let request = Request::get("http://web/some/path").body(Body::empty()).unwrap();
    let status = h2(entrance).await.send_request(request).await.map(|r| r.status().as_u16());
    assert!(matches!(status, Err(_) | Ok(502 | 504)), "{status:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let attempts = accepted.load(Ordering::SeqCst);
    assert!((11..200).contains(&attempts), "{attempts} attempts for 11 requests");
    until("it is counted", || told(&rig, &["outbound_http_errors_total{", "i/o"])).await;
    let counted = ["tcp_close_total{", r#"peer="dst""#, r#"errno="ECONNRESET""#];
    until("it is counted", || told(&rig, &counted)).await;
    until_calm(before).await;
}

// proves: FAULT-11
#[tokio::test]
async fn bytes_toward_a_peer_that_resets() {
    const OPAQUE: &str = "db.shop.svc.cluster.local:5432";
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = io.read_u8().await;
            socket2::SockRef::from(&io).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    rig.known.service(OPAQUE, true, plain(addr));
    let entrance = rig.entrance(OPAQUE).await;
    let before = tasks();
    for _ in 0..10 {
        let mut io = TcpStream::connect(entrance).await.unwrap();
        io.write_all(b"hello").await.unwrap();
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, io.read_to_end(&mut rest));
        let _ = end.await.expect("the client learns of it");
    }
    let counted = ["tcp_close_total{", r#"peer="dst""#, r#"errno="ECONNRESET""#];
    until("it is counted", || told(&rig, &counted)).await;
    until_calm(before).await;
}
