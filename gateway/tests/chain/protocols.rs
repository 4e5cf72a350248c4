//! # Every protocol crosses the gateway whole

use crate::harness::*;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use mesh_http::Body;
use mesh_model::endpoint::ProtocolHint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `size` bytes that differ along the way, in frames of 64 KiB, with trailers.
fn body(size: usize, trailers: Option<HeaderMap>) -> Body {
    let chunk = |at: usize| {
        let len = (size - at).min(1 << 16);
        let bytes: Vec<u8> = (at..at + len).map(|i| (i / 7 % 251) as u8).collect();
        Ok(http_body::Frame::data(Bytes::from(bytes)))
    };
    let frames = (0..size).step_by(1 << 16).map(chunk);
    let last = trailers.into_iter().map(|t| Ok(http_body::Frame::trailers(t)));
    let frames: Vec<Result<_, mesh_http::Error>> = frames.chain(last).collect();
    Body::boxed(StreamBody::new(futures::stream::iter(frames)))
}

fn is_whole(got: &Bytes, size: usize) -> bool {
    got.len() == size && got.iter().enumerate().all(|(i, b)| *b == (i / 7 % 251) as u8)
}

// proves: GW-8 GW-5 INB-5
#[tokio::test]
async fn http1_arrives_as_it_was_sent_and_says_who_passed_it_on() {
    let world = World::new().await;
    let response =
        whole(world.send(h1("GET", "/a?b").body(Body::empty()).unwrap()).await.unwrap()).await;
    assert_eq!(response.status, StatusCode::OK);
    let header = |name: &str| response.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(header("x-version").unwrap(), "HTTP/1.1");
    assert_eq!(header("x-host").unwrap(), "echo.demo.svc.east.example:8080");
    assert_eq!(header("x-client").unwrap(), GATEWAY, "the Pod sees the gateway");
    assert_eq!(
        header("x-forwarded").unwrap(),
        format!("by={GATEWAY};for={CLIENT};host=echo.demo.svc.east.example:8080;proto=https")
    );
    assert_eq!(header("x-orig-proto"), None);
    assert_eq!(header("l5d-orig-proto"), None);
    let shown = world.metrics();
    let target = r#"target_port="8080",target_name="echo.demo.svc.east.example""#;
    let line = format!(
        r#"inbound_tcp_transport_header_connections_total{{session_protocol="http/2",{target},client_id="{CLIENT}"}} 1"#
    );
    assert!(shown.contains(&line), "{shown}");
    assert!(shown.contains("inbound_http_authz_allow_total{"), "{shown}");
}

// proves: GW-8
#[tokio::test]
async fn bodies_of_all_sizes_cross_over_both_versions() {
    let world = World::new().await;
    for size in [0, 1, 65_535, 65_536, 1 << 20, 64 << 20] {
        for version in VERSIONS {
            let builder = match version {
                mesh_http::detect::HttpVersion::Http1 => {
                    h1("POST", "/").header("transfer-encoding", "chunked")
                }
                mesh_http::detect::HttpVersion::Http2 => h2("POST", "/"),
            };
            let request = builder.body(body(size, None)).unwrap();
            let response = whole(world.send(request).await.unwrap()).await;
            assert_eq!(response.status, 200);
            assert!(is_whole(&response.body, size), "{size} {version:?}");
        }
    }
}

// proves: GW-8
#[tokio::test]
async fn grpc_trailers_cross() {
    let world = World::new().await;
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let request = h2("POST", "/echo.Echo/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body(100_000, Some(trailers.clone())))
        .unwrap();
    let response = whole(world.send(request).await.unwrap()).await;
    assert_eq!(response.headers["x-version"], "HTTP/2.0");
    assert_eq!(response.headers["x-authority"], "echo.demo.svc.east.example:8080");
    assert!(is_whole(&response.body, 100_000));
    assert_eq!(response.trailers, Some(trailers));
}

// proves: GW-8
#[tokio::test]
async fn ten_thousand_requests_at_once_on_few_connections() {
    let world = std::sync::Arc::new(World::new().await);
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let tasks = (0..64).map(|_| {
        let (world, next) = (world.clone(), next.clone());
        tokio::spawn(async move {
            while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 10_000 {
                let request = h1("GET", "/").body(Body::empty()).unwrap();
                let response = world.send(request).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

// proves: GW-8
#[tokio::test]
async fn upgrades_and_connect_become_tunnels() {
    let world = World::new().await;
    for (head, status) in [
        (
            "GET /chat HTTP/1.1\r\nhost: echo-east\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
            "101",
        ),
        ("CONNECT echo-east:80 HTTP/1.1\r\nhost: echo-east\r\n\r\n", "200"),
    ] {
        let mut io = world.connect(MIRROR).await;
        io.write_all(head.as_bytes()).await.unwrap();
        let seen = read_until(&mut io, |seen| seen.ends_with(b"\r\n\r\n")).await;
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.starts_with(&format!("HTTP/1.1 {status}")), "{seen}");
        io.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        io.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"ping");
        io.shutdown().await.unwrap();
        assert!(read_until(&mut io, |_| false).await.is_empty());
    }
}

// proves: GW-8 INB-6
#[tokio::test]
async fn bytes_cross_and_each_side_ends_on_its_own() {
    let world = World::new().await;
    let mirror = world.gateway_endpoint(SERVICE, ProtocolHint::Opaque);
    let name = "tcp-east.demo.svc.west.example:8080";
    world.west.opaque(name, mirror);
    let mut io = world.connect(name).await;
    let (mut read, mut write) = tokio::io::split(&mut io);
    let sent: Vec<u8> = std::iter::once(0).chain((0..1_000_000).map(|i| (i % 251) as u8)).collect();
    let write = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), got) = tokio::join!(write, read_until(&mut read, |_| false));
    assert_eq!(got.len(), sent.len() + 3);
    assert!(got.starts_with(&sent) && got.ends_with(b"bye"), "a last word after the half-close");
    assert!(world.metrics().contains("inbound_tcp_authz_allow_total{"));
}
