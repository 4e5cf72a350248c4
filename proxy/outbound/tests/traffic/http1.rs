//! # HTTP/1 rules
//!
//! Job: what an application sees of HTTP/1 through the proxy. Must not touch: anything but loopback.

use crate::harness::*;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::endpoint::{EndpointMetadata, ProtocolHint};
use mesh_process::drain::Drained;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\nok";

// proves: HTTP-5
#[tokio::test]
async fn headers_of_the_hop_are_stripped_both_ways_and_framing_stays() {
    let rig = Rig::new();
    let (addr, mut heads) = raw_server(OK).await;
    let entrance = rig.entrance(&addr.to_string()).await;
    let request = "POST /a?b HTTP/1.1\r\nHost: web\r\nConnection: close, x-one\r\nX-One: 1\r\n\
                   Keep-Alive: 5\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nContent-Length: 0\r\n\r\n";
    let response = converse(entrance, request).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("ok"), "{response}");
    assert!(!response.contains("x-hop"), "{response}");
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("POST /a?b HTTP/1.1\r\n"), "{head}");
    for gone in ["x-one", "keep-alive", "upgrade", "http2-settings", "transfer-encoding", "date"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("host: web\r\n") && head.contains("content-length: 0\r\n"), "{head}");
}

// proves: HTTP-5
#[tokio::test]
async fn absolute_form_and_http10_survive() {
    let rig = Rig::new();
    let (addr, mut heads) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let entrance = rig.entrance(&addr.to_string()).await;
    let request = "GET http://a.b/c HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    assert!(converse(entrance, request).await.starts_with("HTTP/1.1 200"));
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET http://a.b/c HTTP/1.1\r\nhost: other\r\n"), "{head}");
    for host in ["", "Host: x\r\n"] {
        let response = converse(entrance, &format!("GET /old HTTP/1.0\r\n{host}\r\n")).await;
        assert!(response.starts_with("HTTP/1.0 200"), "{response}");
        assert!(heads.recv().await.unwrap().starts_with("GET /old HTTP/1.0\r\n"));
    }
}

// proves: HTTP-5
#[tokio::test]
async fn responses_without_body_and_until_the_end_of_the_stream() {
    for (method, answer, expected) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", "content-length: 99"),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", "etag: x"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 No Content"),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nto the end", "to the end"),
    ] {
        let rig = Rig::new();
        let (listener, addr) = bind().await;
        tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            read_head(&mut io).await.unwrap();
            io.write_all(answer.as_bytes()).await.unwrap();
        });
        let entrance = rig.entrance(&addr.to_string()).await;
        let request =
            format!("{method} /longer-path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let response = converse(entrance, &request).await;
        assert!(response.contains(expected), "{method}: {response}");
    }
}

// proves: HTTP-5
#[tokio::test]
async fn bad_connect_requests_are_400() {
    let rig = Rig::new();
    let (addr, _heads) = raw_server(OK).await;
    let entrance = rig.entrance(&addr.to_string()).await;
    for request in [
        "CONNECT /path HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT a:1 HTTP/1.0\r\n\r\n   ",
        "GET web:80 HTTP/1.1\r\nHost: web\r\n\r\n",
    ] {
        let response = converse(entrance, request).await;
        assert!(response.contains(" 400 "), "{request:?}: {response}");
    }
}

// proves: HTTP-6 OUT-11
#[tokio::test]
async fn upgrades_become_tunnels_with_half_close() {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let head = read_head(&mut io).await.unwrap().unwrap();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: "), "{head}");
        let answer = "HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        io.write_all(answer.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        io.write_all(b"got ").await.unwrap();
        io.write_all(&all).await.unwrap();
    });
    let entrance = rig.entrance(&addr.to_string()).await;
    let mut io = TcpStream::connect(entrance).await.unwrap();
    let request =
        "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    io.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut io).await.unwrap().unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    io.write_all(b"frames").await.unwrap();
    let drained = tokio::spawn(rig.drain(PATIENCE));
    tokio::task::yield_now().await;
    assert!(!drained.is_finished(), "the tunnel is open");
    io.shutdown().await.unwrap();
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "got frames");
    drop(io);
    assert_eq!(drained.await.unwrap(), Drained::Complete);
}

// proves: HTTP-10
#[tokio::test]
async fn connections_are_kept_per_authority() {
    let rig = Rig::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let (listener, addr) = bind().await;
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                while let Ok(Some(_)) = read_head(&mut io).await {
                    io.write_all(OK).await.unwrap();
                }
            });
        }
    });
    let mut client = h1(rig.entrance(&addr.to_string()).await).await;
    for host in ["a", "a", "b", "a", "b"] {
        client.ready().await.unwrap();
        let request = Request::builder().uri("/some/path").header("host", host);
        let response = client.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(text(response.into_body()).await, "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

// proves: HTTP-11
#[tokio::test]
async fn bodies_of_all_sizes_arrive_whole() {
    let rig = Rig::new();
    let hinted = EndpointMetadata { hint: ProtocolHint::Http2, ..EndpointMetadata::default() };
    let plain_server = serve(HttpVersion::Http1, echo).await;
    let h2_server = serve(HttpVersion::Http2, echo).await;
    rig.known.service("one.shop.svc.cluster.local:80", false, plain(plain_server));
    rig.known.service("two.shop.svc.cluster.local:80", false, set(&[(h2_server, hinted)]));
    for service in ["one.shop.svc.cluster.local:80", "two.shop.svc.cluster.local:80"] {
        let mut client = h1(rig.entrance(service).await).await;
        for size in [0, 1, 1023, 65_536, 1 << 20, 64 << 20] {
            client.ready().await.unwrap();
            let body = bytes::Bytes::from(vec![b'm'; size]);
            let request = Request::post("/echo/some").header("host", "web");
            let request = request.header("content-length", size);
            let request = request.body(Body::full(body)).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200, "{service} {size}");
            assert_eq!(response.headers()["content-length"], size.to_string().as_str());
            let got = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(got.len(), size);
            assert!(got.iter().all(|b| *b == b'm'));
        }
    }
}

// proves: HTTP-7
#[tokio::test]
async fn http1_travels_in_one_shared_http2_connection() {
    let rig = Rig::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let (listener, addr) = bind().await;
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut connection = ::h2::server::handshake(io).await.unwrap();
            tokio::spawn(async move {
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let proto = request.headers()["l5d-orig-proto"].clone();
                    assert_eq!(request.version(), Version::HTTP_2);
                    assert_eq!(request.uri().authority().unwrap(), "web");
                    assert!(!request.headers().contains_key("connection"));
                    let response = Response::builder()
                        .header("l5d-orig-proto", "HTTP/1.1")
                        .header("saw", proto)
                        .header("l5d-proxy-error", "secret")
                        .body(())
                        .unwrap();
                    respond.send_response(response, true).unwrap();
                }
            });
        }
    });
    let hinted = EndpointMetadata {
        hint: ProtocolHint::Http2,
        tls: Some(tls()),
        ..EndpointMetadata::default()
    };
    rig.known.service("web.shop.svc.cluster.local:80", false, set(&[(addr, hinted)]));
    let entrance = rig.entrance("web.shop.svc.cluster.local:80").await;
    let requests = (0..50).map(|_| async move {
        let request = "GET /some/path HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        converse(entrance, request).await
    });
    for response in futures::future::join_all(requests).await {
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("saw: HTTP/1.1\r\n"), "{response}");
        assert!(!response.contains("l5d-"), "{response}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

// proves: HTTP-7
#[tokio::test]
async fn a_reset_under_http1_is_a_502() {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = ::h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(::h2::Reason::INTERNAL_ERROR);
        }
    });
    let hinted = EndpointMetadata { hint: ProtocolHint::Http2, ..EndpointMetadata::default() };
    rig.known.service("web.shop.svc.cluster.local:80", false, set(&[(addr, hinted)]));
    let entrance = rig.entrance("web.shop.svc.cluster.local:80").await;
    let response = converse(entrance, "GET /some/path HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    assert!(response.contains("upgraded connection failed with HTTP/2 reset"), "{response}");
    assert!(
        response.contains("connection: close") && response.contains("l5d-proxy-connection: close")
    );
}
