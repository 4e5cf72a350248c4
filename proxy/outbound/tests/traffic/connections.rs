//! # Routes of connections
//!
//! Job: TLS by the name that its client asks for, bytes that are refused. Must not touch: anything but
//! loopback.

use crate::{
    harness::*,
    routes::{forward, meta},
};
use mesh_model::{
    outbound::{OutboundPolicy, OutboundProtocol, OutboundRoute, Refusal},
    route::HostMatch,
};
use std::{net::SocketAddr, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The least ClientHello that names a server, or none.
fn hello(name: Option<&str>) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |name: &str| {
        let entry = [&[0][..], &sized(name.as_bytes())].concat();
        [&[0, 0][..], &sized(&sized(&entry))].concat()
    };
    let extensions = name.map(extension).unwrap_or_default();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0], &sized(&extensions)].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

/// Says how many bytes came first, and its tag.
async fn counting(tag: &'static str) -> SocketAddr {
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let n = io.read(&mut buffer).await.unwrap();
                io.write_all(format!("{tag} {n}").as_bytes()).await
            });
        }
    });
    addr
}

async fn answer(to: SocketAddr, bytes: &[u8]) -> String {
    let mut io = tokio::net::TcpStream::connect(to).await.unwrap();
    io.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    // A refused connection may be reset.
    let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut all)).await.expect("an end in time");
    String::from_utf8(all).unwrap()
}

// proves: ROUTE-3
#[tokio::test]
async fn tls_goes_where_its_name_says() {
    let rig = Rig::with(|config| config.detect_timeout = Duration::from_millis(300));
    let (a, b) = (counting("a").await, counting("b").await);
    let route = |host, backend| OutboundRoute {
        hosts: vec![host],
        ..OutboundRoute::to(meta("TLSRoute", "t"), backend)
    };
    let refused = OutboundRoute {
        hosts: vec![HostMatch::Exact("no.example.com".into())],
        ..OutboundRoute::refusing(meta("TLSRoute", "no"), Refusal::Forbidden)
    };
    let routes = vec![
        route(HostMatch::Suffix(vec!["example".into(), "com".into()]), forward("a", a)),
        route(HostMatch::Exact("b.example.com".into()), forward("b", b)),
        refused,
    ];
    let protocol = OutboundProtocol::Tls(routes.into());
    let policy = OutboundPolicy { parent: meta("EgressNetwork", "all"), protocol };
    put(&rig.known.policies, "10.9.8.7:443", policy);
    let entrance = rig.entrance("10.9.8.7:443").await;
    for (name, expected) in [
        (Some("x.example.com"), format!("a {}", hello(Some("x.example.com")).len())),
        (Some("b.example.com"), format!("b {}", hello(Some("b.example.com")).len())),
        (Some("no.example.com"), String::new()),
        (Some("other.org"), String::new()),
        (None, String::new()),
    ] {
        assert_eq!(answer(entrance, &hello(name)).await, expected, "{name:?}");
    }
    assert_eq!(answer(entrance, b"GET / HTTP/1.1\r\n\r\n").await, "");
    assert_eq!(
        answer(entrance, &hello(Some("b.example.com"))[..9]).await,
        "",
        "silence is bounded"
    );
    let text = String::from_utf8(rig.metrics.text()).unwrap();
    let labels = r#"parent_group="core",parent_kind="EgressNetwork",parent_namespace="shop",parent_name="all",parent_port="443""#;
    for (family, rest, count) in [
        ("outbound_tls_route_open_total", r#"route_name="t""#, "2"),
        ("outbound_tls_route_close_total", r#"route_name="t",error="""#, "2"),
        ("outbound_tls_route_close_total", r#"route_name="no",error="forbidden""#, "1"),
        ("outbound_tcp_protocol_connections_total", r#"protocol="tls""#, "7"),
    ] {
        let found = text.lines().any(|line| {
            let named = line.starts_with(family) && line.contains(labels);
            named && line.contains(rest) && line.ends_with(&format!(" {count}"))
        });
        assert!(found, "{family} {rest} {count}\n{text}");
    }
}

// proves: ROUTE-6
#[tokio::test]
async fn refused_bytes_are_closed_and_counted() {
    let rig = Rig::new();
    for (port, refusal, label) in [
        (1, Refusal::Forbidden, "forbidden"),
        (2, Refusal::Invalid("Service not found".into()), "invalid_policy"),
    ] {
        let target = format!("10.9.8.7:{port}");
        let route = OutboundRoute::refusing(meta("TCPRoute", "t"), refusal);
        let protocol = OutboundProtocol::Opaque([route].into());
        let policy = OutboundPolicy { parent: meta("Service", "web"), protocol };
        put(&rig.known.policies, &target, policy);
        let entrance = rig.entrance(&target).await;
        assert_eq!(answer(entrance, b"hello").await, "");
        let text = String::from_utf8(rig.metrics.text()).unwrap();
        let counted = |line: &str| {
            line.starts_with("outbound_tcp_route_close_total")
                && line.contains(&format!("parent_port=\"{port}\""))
                && line.contains(&format!("error=\"{label}\"}} 1"))
        };
        assert!(text.lines().any(counted), "{text}");
    }
}

// proves: SET-4
#[tokio::test]
async fn connections_wait_by_settings_of_their_own() {
    let rig = Rig::with(|config| {
        config.balance.failfast = PATIENCE;
        config.tcp_failfast = Duration::from_millis(50);
    });
    let name = "db.shop.svc.cluster.local:5432";
    rig.known.service(name, true, mesh_model::endpoint::EndpointSet::Unknown);
    let entrance = rig.entrance(name).await;
    let start = tokio::time::Instant::now();
    assert_eq!(answer(entrance, b"hello").await, "");
    assert!(start.elapsed() < PATIENCE / 2, "requests would wait longer");
}
