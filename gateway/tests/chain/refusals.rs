//! # What the gateway's port refuses, and how each is counted

use crate::harness::*;
use bytes::{BufMut, BytesMut};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use mesh_discover::RefusalCode;
use mesh_gateway::View;
use mesh_http::Body;
use mesh_meshtls::Credentials;
use mesh_model::{
    inbound::DefaultPolicy,
    transport::{SessionProtocol, TransportHeader},
};
use std::{num::NonZeroU16, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// Mesh TLS to the gateway's port, with or without the offer of a transport header.
async fn tls(world: &World, credentials: &Credentials, name: &str, header: bool) -> Option<Tls> {
    let io = TcpStream::connect(world.gateway).await.unwrap();
    let mut to = target(GATEWAY);
    to.server_name = name.parse().unwrap();
    mesh_meshtls::connect(io, credentials, &to, header).await.ok().map(|c| c.io)
}

/// The connection is closed without an answer.
async fn closed(io: &mut (impl AsyncReadExt + Unpin)) {
    let seen = read_until(io, |_| false).await;
    assert!(seen.is_empty(), "{seen:?}");
}

async fn counted(world: &World, series: &str) {
    eventually(series, || world.metrics().contains(series)).await;
}

fn header(name: &str, port: u16, protocol: Option<SessionProtocol>) -> TransportHeader {
    TransportHeader {
        port: NonZeroU16::new(port).unwrap(),
        name: Some(name.parse().unwrap()),
        protocol,
    }
}

// proves: INB-1 INB-3
#[tokio::test]
async fn connections_that_are_not_mutually_authenticated() {
    let world = World::new().await;

    let mut io = TcpStream::connect(world.gateway).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n").await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="plaintext"} 1"#).await;

    let anonymous = world.ca.bare(CLIENT);
    let mut io = tls(&world, &anonymous, GATEWAY, false).await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="no_client_certificate"} 1"#).await;

    // A client of another root, who itself trusts this gateway.
    let mut other = Ca::new();
    other.anchors = other.anchors.union(&world.ca.anchors);
    let stranger = other.workload(CLIENT);
    if let Some(mut io) = tls(&world, &stranger, GATEWAY, true).await {
        closed(&mut io).await;
    }
    counted(&world, r#"inbound_direct_refusals_total{reason="handshake"} 1"#).await;

    assert!(tls(&world, &world.west_credentials, POD, true).await.is_none());
    counted(&world, r#"inbound_direct_refusals_total{reason="wrong_sni"} 1"#).await;
    assert!(world.metrics().contains(r#"inbound_tcp_errors_total{error="unexpected","#));
}

// proves: INB-3
#[tokio::test]
async fn connections_without_a_good_transport_header() {
    let world = World::new().await;
    let client = &world.west_credentials;

    let mut io = tls(&world, client, GATEWAY, false).await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="no_alpn"} 1"#).await;

    let mut io = tls(&world, client, GATEWAY, true).await.unwrap();
    io.shutdown().await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="header_missing"} 1"#).await;

    let mut io = tls(&world, client, GATEWAY, true).await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="header_timeout"} 1"#).await;

    let mut io = tls(&world, client, GATEWAY, true).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="header_malformed"} 1"#).await;

    let mut long = BytesMut::from(&b"transport.l5d.io/v1\r\n\r\n"[..]);
    long.put_u32(1 << 20);
    let mut io = tls(&world, client, GATEWAY, true).await.unwrap();
    io.write_all(&long).await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"inbound_direct_refusals_total{reason="header_too_long"} 1"#).await;
}

/// Sends one request under a transport header; status and reason.
async fn ask(world: &World, credentials: &Credentials, header: TransportHeader) -> (u16, String) {
    ask_with(world, credentials, header, |_| {}).await
}

async fn ask_with(
    world: &World,
    credentials: &Credentials,
    header: TransportHeader,
    change: impl FnOnce(&mut http::HeaderMap),
) -> (u16, String) {
    let mut io = tls(world, credentials, GATEWAY, true).await.unwrap();
    io.write_all(&mesh_wire::transport_header::encode(&header)).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(io);
    let exec = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(exec, io).await.unwrap();
    tokio::spawn(connection);
    let mut request = h2("GET", "/").body(Body::empty()).unwrap();
    change(request.headers_mut());
    let response = sender.send_request(request).await.unwrap();
    let reason = response.headers().get("l5d-proxy-error");
    let reason = reason.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), reason)
}

const HTTP2: Option<SessionProtocol> = Some(SessionProtocol::Http2);

// proves: GW-2 GW-3
#[tokio::test]
async fn names_that_are_not_exported() {
    let world = World::new().await;
    let client = &world.west_credentials;
    let (status, reason) = ask(&world, client, header("example.com", 443, HTTP2)).await;
    assert_eq!((status, reason.as_str()), (404, "bad gateway domain"));
    counted(&world, r#"gateway_refusals_total{reason="domain"} 1"#).await;

    // It exists, but the control plane says that it is not exported.
    let (status, reason) =
        ask(&world, client, header("private.demo.svc.east.example", 80, HTTP2)).await;
    assert_eq!((status, reason.as_str()), (404, "bad gateway domain: not exported"));
    counted(&world, r#"gateway_refusals_total{reason="not_exported"} 1"#).await;
    counted(&world, r#"inbound_http_errors_total{error="gateway domain invalid","#).await;

    let mut io = tls(&world, client, GATEWAY, true).await.unwrap();
    let bytes = header("private.demo.svc.east.example", 80, None);
    io.write_all(&mesh_wire::transport_header::encode(&bytes)).await.unwrap();
    closed(&mut io).await;
    counted(&world, r#"gateway_refusals_total{reason="not_exported"} 2"#).await;
    counted(&world, r#"inbound_tcp_errors_total{error="gateway domain invalid","#).await;

    let (status, _) = ask(&world, client, header("echo.demo.svc.east.example", 8080, HTTP2)).await;
    assert_eq!(status, 200, "the same client may use what is exported");
}

// proves: GW-4
#[tokio::test]
async fn loops() {
    let world = World::new().await;
    let to = || header("echo.demo.svc.east.example", 8080, HTTP2);
    let (status, reason) = ask(&world, &world.gateway_credentials, to()).await;
    assert_eq!(status, StatusCode::LOOP_DETECTED);
    assert!(reason.contains("gateway loop detected"), "{reason}");
    counted(&world, r#"gateway_refusals_total{reason="loop_identity"} 1"#).await;

    let passed = format!("by={GATEWAY};for={CLIENT};host=x;proto=https");
    let passed = HeaderValue::from_str(&passed).unwrap();
    let (status, reason) = ask_with(&world, &world.west_credentials, to(), |headers| {
        headers.insert("forwarded", passed);
    })
    .await;
    assert_eq!((status, reason.as_str()), (508, "gateway loop detected"));
    counted(&world, r#"gateway_refusals_total{reason="loop_forwarded"} 1"#).await;
    counted(&world, r#"inbound_http_errors_total{error="gateway loop","#).await;
}

// proves: INB-4
#[tokio::test]
async fn clients_that_the_policy_of_the_port_does_not_let_in() {
    let world = World::new().await;
    // As a NetworkAuthentication without the client's network does.
    let port = world.gateway.port();
    world.gateway_policies.set(port, policy(DefaultPolicy::ClusterAuthenticated));
    let to = |protocol| header("echo.demo.svc.east.example", 8080, protocol);
    let (status, reason) = ask(&world, &world.west_credentials, to(HTTP2)).await;
    assert_eq!((status, reason.as_str()), (403, "unauthorized request on route"));
    counted(&world, "inbound_http_authz_deny_total{").await;

    let mut io = tls(&world, &world.west_credentials, GATEWAY, true).await.unwrap();
    io.write_all(&mesh_wire::transport_header::encode(&to(None))).await.unwrap();
    closed(&mut io).await;
    counted(&world, "inbound_tcp_authz_deny_total{").await;

    world.gateway_policies.set(port, policy(DefaultPolicy::AllAuthenticated));
    let (status, _) = ask(&world, &world.west_credentials, to(HTTP2)).await;
    assert_eq!(status, 200, "the newest policy counts");
}

// proves: GW-11
#[tokio::test]
async fn a_name_that_becomes_known_a_moment_later_is_waited_for() {
    let mut world = World::new().await;
    world.patience = PATIENCE;
    world.gateway = world.start_gateway(View::default(), world.gateway_metrics.clone());
    let world = Arc::new(world);
    let late = "late.demo.svc.east.example:8080";
    let asking = {
        let world = world.clone();
        let header = header("late.demo.svc.east.example", 8080, HTTP2);
        tokio::spawn(async move { ask(&world, &world.west_credentials, header).await })
    };
    eventually("the question for the name", || world.east.asked(late)).await;
    world.east.service(late, world.pod_endpoint());
    assert_eq!(asking.await.unwrap(), (200, String::new()));
    assert!(!world.metrics().contains("gateway_refusals_total{"), "nothing was refused");
}

// proves: GW-3
#[tokio::test]
async fn a_withdrawn_export_ends_on_open_connections_and_returns() {
    let world = World::new().await;
    let get = || async {
        let request = h2("GET", "/").body(Body::empty()).unwrap();
        let response = world.send(request).await.unwrap();
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        status
    };
    assert_eq!(get().await, 200);
    world.east.refuse(SERVICE, RefusalCode::FailedPrecondition);
    let start = std::time::Instant::now();
    while get().await != 404 {
        assert!(start.elapsed() < PATIENCE);
    }
    world.east.service(SERVICE, world.pod_endpoint());
    while get().await != 200 {
        assert!(start.elapsed() < PATIENCE);
    }
}

// proves: INB-7
#[tokio::test]
async fn random_bytes_on_every_port_harm_nobody() {
    let world = World::new().await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = move |i: usize| {
        let mut bytes: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
        // A third look like TLS at first.
        if i.is_multiple_of(3) {
            bytes.splice(0..0, [22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]);
        }
        bytes
    };
    for port in [world.gateway, world.pod] {
        for _ in 0..100 {
            let batch: Vec<_> = (0..100).map(|i| tokio::spawn(scribble(port, bytes(i)))).collect();
            for connection in batch {
                connection.await.unwrap();
            }
        }
    }
    let request = h1("GET", "/").body(Body::empty()).unwrap();
    assert_eq!(world.send(request).await.unwrap().status(), 200);
}

async fn scribble(to: std::net::SocketAddr, bytes: Vec<u8>) {
    let mut io = TcpStream::connect(to).await.unwrap();
    // The other side may close at any byte.
    let _ = io.write_all(&bytes).await;
    let _ = io.shutdown().await;
    read_until(&mut io, |_| false).await;
}
