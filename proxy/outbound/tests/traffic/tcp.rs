//! # Bytes
//!
//! Job: connections that are not HTTP, the transport header, drain. Must not touch: anything but loopback.

use crate::harness::*;
use mesh_model::endpoint::{EndpointMetadata, ProtocolHint};
use mesh_process::drain::Drained;
use std::{num::NonZeroU16, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

// proves: TCP-1
#[tokio::test]
async fn opaque_bytes_flow_with_half_close() {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        io.write_all(&all).await.unwrap();
    });
    rig.known.service("db.shop.svc.cluster.local:5432", true, plain(addr));
    let mut io =
        TcpStream::connect(rig.entrance("db.shop.svc.cluster.local:5432").await).await.unwrap();
    let body = vec![9; 8 << 20];
    io.write_all(&body).await.unwrap();
    io.shutdown().await.unwrap();
    let mut got = Vec::new();
    io.read_to_end(&mut got).await.unwrap();
    assert!(got == body);
}

// proves: OUT-6
#[tokio::test]
async fn the_peers_proxy_is_told_what_comes() {
    let (listener, addr) = bind().await;
    let direct = NonZeroU16::new(addr.port()).unwrap();
    let app = std::net::SocketAddr::new(addr.ip(), 8080);
    for (hint, authority, protocol, name) in [
        (
            ProtocolHint::Http2,
            Some("web.shop.svc.cluster.local:81"),
            Some("http/2"),
            Some("web.shop.svc.cluster.local"),
        ),
        (ProtocolHint::Http2, None, Some("http/2"), None),
        (ProtocolHint::Unknown, None, Some("http/1"), None),
    ] {
        let rig = Rig::new();
        let metadata = EndpointMetadata {
            tls: Some(tls()),
            hint,
            opaque_transport: Some(direct),
            authority_override: authority.map(|a| a.parse().unwrap()),
            ..EndpointMetadata::default()
        };
        rig.known.service("web-east.shop.svc.cluster.local:80", false, set(&[(app, metadata)]));
        let entrance = rig.entrance("web-east.shop.svc.cluster.local:80").await;
        let mut client = TcpStream::connect(entrance).await.unwrap();
        client.write_all(b"GET /some/path HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let (mut io, _) = listener.accept().await.unwrap();
        let mut buffer = bytes::BytesMut::new();
        let header = loop {
            io.read_buf(&mut buffer).await.unwrap();
            if let Some(header) = mesh_wire::transport_header::decode(&mut buffer).unwrap() {
                break header;
            }
        };
        assert_eq!(header.protocol.map(|p| p.as_str()), protocol);
        assert_eq!(header.name.as_ref().map(|n| n.as_str()), name);
        assert_eq!(header.port.get(), if name.is_some() { 81 } else { 8080 });
    }
}

// proves: TCP-2
#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses() {
    let rig = Rig::new();
    let (gone, dead) = bind().await;
    drop(gone);
    let (listener, alive) = bind().await;
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { io.write_all(b"hi").await });
        }
    });
    let both = [(dead, EndpointMetadata::default()), (alive, EndpointMetadata::default())];
    rig.known.service("db.shop.svc.cluster.local:5432", true, set(&both));
    let entrance = rig.entrance("db.shop.svc.cluster.local:5432").await;
    for _ in 0..20 {
        assert_eq!(converse(entrance, "").await, "hi");
    }
}

// proves: OUT-11
#[tokio::test]
async fn drain_waits_for_tunnels_and_closes_idle_http() {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        let _ = io.read_to_end(&mut all).await;
    });
    rig.known.service("mail.demo.svc.cluster.local:25", true, plain(addr));
    let proxy = rig.explicit().await;
    let mut tunnel = TcpStream::connect(proxy).await.unwrap();
    tunnel.write_all(b"CONNECT mail.demo:25 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_head(&mut tunnel).await.unwrap().unwrap().starts_with("HTTP/1.1 200"));
    let mut idle = TcpStream::connect(proxy).await.unwrap();
    idle.write_all(b"GET http://none.demo/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_head(&mut idle).await.unwrap().unwrap().starts_with("HTTP/1.1 502"));

    let drained = tokio::spawn(rig.drain(PATIENCE));
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(!drained.is_finished(), "a tunnel is open");
    drop(tunnel);
    let ended = tokio::time::timeout(Duration::from_secs(10), drained).await.unwrap().unwrap();
    assert_eq!(ended, Drained::Complete);
}

/// A server that says `hello` at once and then echoes.
async fn greeter() -> std::net::SocketAddr {
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                io.write_all(b"hello").await.unwrap();
                let (mut read, mut write) = io.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

// proves: OUT-13
#[tokio::test]
async fn a_server_that_speaks_first_is_not_waited_for() {
    let rig = Rig::new();
    rig.known.service("db.shop.svc.cluster.local:25", false, plain(greeter().await));
    let entrance = rig.entrance("db.shop.svc.cluster.local:25").await;
    // Both far from the ten seconds of a detection, and wide enough for a busy machine.
    for limit in [Duration::from_secs(5), Duration::from_secs(2)] {
        let start = tokio::time::Instant::now();
        let mut io = TcpStream::connect(entrance).await.unwrap();
        let mut hello = [0; 5];
        tokio::time::timeout(PATIENCE, io.read_exact(&mut hello)).await.unwrap().unwrap();
        assert!(start.elapsed() < limit, "{:?} of a detection of 10 s", start.elapsed());
        io.write_all(b"later").await.unwrap();
        let mut echoed = [0; 5];
        io.read_exact(&mut echoed).await.unwrap();
        assert_eq!((&hello, &echoed), (b"hello", b"later"));
    }
}

// proves: OUT-13
#[tokio::test]
async fn a_client_that_thinks_before_it_asks_is_still_http() {
    let rig = Rig::new();
    let server = serve(mesh_http::detect::HttpVersion::Http1, echo).await;
    rig.known.service("web.shop.svc.cluster.local:80", false, plain(server));
    let mut io =
        TcpStream::connect(rig.entrance("web.shop.svc.cluster.local:80").await).await.unwrap();
    let opened = || {
        let shown = String::from_utf8(rig.metrics.text()).unwrap();
        let dst =
            |line: &str| line.starts_with("tcp_open_total{") && line.contains(r#"peer="dst""#);
        shown.lines().any(dst)
    };
    until("the silence has been noticed", opened).await;
    io.write_all(b"GET /some/path HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 "), "{all}");
    let shown = String::from_utf8(rig.metrics.text()).unwrap();
    assert!(shown.contains("\nrequest_total{"), "it is seen as a request");
}
