//! # What a proxy takes on, and what stays as it began
//!
//! Job: requests beyond the limit, settings of endpoints, connections whose destination changes its
//! protocol. Must not touch: anything but loopback.

use crate::harness::*;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use mesh_discover::State;
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::{
    endpoint::{EndpointMetadata, Http2Params, ProtocolHint},
    profile::Profile,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

const NAME: &str = "web.shop.svc.cluster.local:80";

fn get() -> Request<Body> {
    Request::get("http://web/").body(Body::empty()).unwrap()
}

// proves: HTTP-13
#[tokio::test]
async fn beyond_the_limit_of_requests_in_flight_all_are_turned_away() {
    let rig = Rig::with(|config| config.max_in_flight = 2);
    let (arrived, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let held = (arrived.clone(), go.clone());
    let server = serve(HttpVersion::Http2, move |request| {
        let (arrived, go) = held.clone();
        async move {
            arrived.fetch_add(1, Ordering::SeqCst);
            go.acquire().await.unwrap().forget();
            // The request's body ends when its client ends it: so does the response's.
            Response::new(request.into_body())
        }
    });
    let hinted = EndpointMetadata { hint: ProtocolHint::Http2, ..EndpointMetadata::default() };
    rig.known.service(NAME, false, set(&[(server.await, hinted)]));
    let entrance = rig.entrance(NAME).await;
    let client = h2(entrance).await;
    let send = || tokio::spawn(client.clone().send_request(get()));
    let (first, second) = (send(), send());
    until("two are under way", || arrived.load(Ordering::SeqCst) == 2).await;
    let refused = h2(entrance).await.send_request(get()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let reason = refused.headers()["l5d-proxy-error"].to_str().unwrap();
    assert!(reason.ends_with("service unavailable"), "{reason}");
    let shown = || String::from_utf8(rig.metrics.text()).unwrap();
    let counted = r#"outbound_http_errors_total{error="loadshed"} 1"#;
    until("it is counted", || shown().contains(counted)).await;
    // A head makes room, though its body is not over.
    go.add_permits(1);
    let open = tokio::select! { open = first => open, open = second => open }.unwrap().unwrap();
    assert_eq!(open.status(), StatusCode::OK);
    let next = tokio::spawn(h2(entrance).await.send_request(get()));
    until("the next is let in", || arrived.load(Ordering::SeqCst) == 3).await;
    go.add_permits(2);
    assert_eq!(next.await.unwrap().unwrap().status(), StatusCode::OK);
    drop(open);
}

/// SETTINGS by identifier, and the window of the connection, as a client of HTTP/2 tells them (RFC 9113).
async fn told(io: &mut TcpStream) -> (BTreeMap<u8, u32>, u32) {
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await.unwrap();
    let (mut settings, mut window) = (BTreeMap::new(), 65_535);
    while settings.is_empty() || window == 65_535 {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        io.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match head[3] {
            4 => settings.extend(payload.chunks_exact(6).map(|s| (s[1], number(&s[2..])))),
            8 => window += number(&payload),
            _ => {}
        }
    }
    (settings, window)
}

// proves: HTTP-14
#[tokio::test]
async fn an_endpoint_has_its_own_settings_of_http2() {
    let own = |stream, connection| Http2Params {
        keep_alive: None,
        initial_stream_window: stream,
        initial_connection_window: connection,
    };
    for (http2, stream, connection) in [
        (own(None, None), 65_535, 1 << 20),
        (own(Some(70_000), None), 70_000, 1 << 20),
        (own(Some(80_000), Some(2 << 20)), 80_000, 2 << 20),
    ] {
        let rig = Rig::new();
        let (listener, addr) = bind().await;
        let hint = ProtocolHint::Http2;
        let metadata = EndpointMetadata { hint, http2, ..EndpointMetadata::default() };
        rig.known.service(NAME, false, set(&[(addr, metadata)]));
        let mut client = h2(rig.entrance(NAME).await).await;
        let asking = tokio::spawn(async move { client.send_request(get()).await });
        let (mut io, _) = listener.accept().await.unwrap();
        let told = tokio::time::timeout(PATIENCE, told(&mut io)).await.unwrap();
        const PUSH: u8 = 2;
        const WINDOW: u8 = 4;
        let window = told.0.get(&WINDOW).copied().unwrap_or(65_535);
        assert_eq!((window, told.1), (stream, connection));
        assert_eq!(told.0.get(&PUSH), Some(&0), "nothing is to be pushed");
        asking.abort();
    }
}

// proves: OUT-17
#[tokio::test]
async fn a_connection_keeps_the_protocol_that_it_began_with() {
    let rig = Rig::new();
    let server = serve(HttpVersion::Http1, echo).await;
    rig.known.service(NAME, false, plain(server));
    let entrance = rig.entrance(NAME).await;
    let mut requests = h1(entrance).await;
    let ask = || Request::get("/").header("host", "web").body(Body::empty()).unwrap();
    let answer = requests.send_request(ask()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap();

    let opaque = |opaque| {
        let fqn = Some("web.shop.svc.cluster.local".parse().unwrap());
        let profile = Profile { fqn, opaque, ..Profile::default() };
        rig.known.profiles.lock().unwrap()[NAME].send_replace(State::Known(profile));
    };
    let protocol = |name: &str| {
        let shown = String::from_utf8(rig.metrics.text()).unwrap();
        let of = format!(r#"outbound_tcp_protocol_connections_total{{protocol="{name}""#);
        let line = shown.lines().find(|line| line.starts_with(&of)).map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).unwrap_or(0)
    };
    opaque(true);
    // New connections are not looked at: less than a request line is carried.
    let mut bytes = TcpStream::connect(entrance).await.unwrap();
    until("it is known to be opaque", || protocol("opaq") > 0).await;
    bytes.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    bytes.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    requests.ready().await.unwrap();
    let answer = requests.send_request(ask()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "requests stay requests");
    answer.into_body().collect().await.unwrap();

    opaque(false);
    let mut late = h1(entrance).await;
    assert_eq!(late.send_request(ask()).await.unwrap().status(), StatusCode::OK);
    bytes.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, bytes.read_to_end(&mut rest)).await.unwrap().unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("connection: close"), "the server's own words pass: {rest}");
}
