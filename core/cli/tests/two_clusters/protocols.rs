//! Every protocol through the gateway, with small and large bodies, trailers and half-close.

use crate::harness::{Cluster, demo, eventually, through};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Method};
use mesh_demo::{
    app::Told,
    client::{Client, Protocol},
    load::{self, Pace},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SIZES: [usize; 4] = [0, 1, 100_000, if cfg!(debug_assertions) { 4 << 20 } else { 64 << 20 }];

async fn mirrored() {
    let west = Cluster::open("west").await;
    eventually("echo-east", async || west.ready_address("echo-east").await).await;
}

/// proves: GW-5, GW-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_with_bodies_of_every_size() {
    mirrored().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let told: Told = {
            let answer = Client::new(through("echo-east.demo", "/", protocol)).get().await.unwrap();
            serde_json::from_slice(&answer.body).unwrap()
        };
        assert_eq!(told.cluster, "east");
        let version = if protocol == Protocol::Http1 { "HTTP/1.1" } else { "HTTP/2.0" };
        assert_eq!(told.version, version);
        assert!(told.client_id.unwrap().starts_with("linkerd-gateway.linkerd-multicluster."));
        assert!(told.forwarded.unwrap().contains("for=web.demo.serviceaccount.identity.linkerd."));
        for size in SIZES {
            let sent = Bytes::from((0..size).map(|n| n as u8).collect::<Vec<_>>());
            let mut client = Client::new(through("echo-east.demo", "/echo", protocol));
            let answer = client.send(Method::POST, HeaderMap::new(), sent.clone()).await.unwrap();
            assert_eq!(answer.status, 200);
            assert!(
                answer.body == sent,
                "{size} bytes over {protocol:?} came back as {}",
                answer.body.len()
            );
        }
    }
}

/// proves: GW-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_with_trailers() {
    mirrored().await;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("te", "trailers".parse().unwrap());
    let message = Bytes::from_static(b"\0\0\0\0\x02hi");
    let mut client = Client::new(through("echo-east.demo", "/mesh.demo.Echo/Say", Protocol::Http2));
    let answer = client.send(Method::POST, headers, message.clone()).await.unwrap();
    assert_eq!(answer.body, message);
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(answer.trailers.get("grpc-message").unwrap(), "echoed");
}

/// A tunnel through the client's proxy.
async fn connect(authority: &str) -> TcpStream {
    let proxy = *demo().proxy.lock().unwrap();
    let mut io = TcpStream::connect(proxy).await.unwrap();
    io.write_all(format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        io.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    io
}

/// proves: GW-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_tcp_with_half_close() {
    mirrored().await;
    for size in SIZES {
        let (mut from, mut to) = connect("echo-east.demo:9090").await.into_split();
        let sent = vec![9; size];
        let back = tokio::spawn(async move {
            let mut back = Vec::new();
            from.read_to_end(&mut back).await.unwrap();
            back
        });
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        assert!(back.await.unwrap() == sent, "{size} bytes");
    }
}

/// proves: GW-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_through_a_tunnel_and_absolute_form() {
    mirrored().await;
    let io = connect("echo-east.demo:80").await;
    let (mut socket, _) =
        tokio_tungstenite::client_async("ws://echo-east.demo/ws", io).await.unwrap();
    for size in [0, 1, 100_000] {
        let text = "x".repeat(size);
        socket.send(text.clone().into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text.as_str());
    }
    socket.close(None).await.unwrap();
}

/// proves: GW-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_without_a_failure() {
    mirrored().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let report = load::run(
            &through("echo-east.demo", "/", protocol),
            Pace::Closed { workers: 64, requests: 10_000, fresh: false },
        )
        .await;
        println!("{protocol:?}: {report}");
        assert_eq!((report.good, report.failures()), (10_000, 0), "{report}");
    }
}
