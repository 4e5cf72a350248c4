//! The demo app over each of its protocols, and the load client against it, on real sockets.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Method};
use mesh_demo::{
    app::{App, Config, Told},
    client::{Client, Protocol, Target},
    load::{self, Pace},
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn app() -> App {
    let any = "127.0.0.1:0".parse().unwrap();
    App::start(Config { cluster: "east".into(), pod: "echo-1".into(), http: any, tcp: any })
        .await
        .unwrap()
}

fn target(app: &App, path: &str, protocol: Protocol) -> Target {
    let uri = format!("http://{}{path}", app.http).parse().unwrap();
    Target { uri, proxy: None, protocol, source: None, timeout: Duration::from_secs(10) }
}

#[tokio::test]
async fn tells_who_answered_and_what_it_was_told() {
    let app = app().await;
    for (protocol, version) in [(Protocol::Http1, "HTTP/1.1"), (Protocol::Http2, "HTTP/2.0")] {
        let mut headers = HeaderMap::new();
        headers.insert("l5d-client-id", "web.demo".parse().unwrap());
        let mut client = Client::new(target(&app, "/a?b", protocol));
        let answer = client.send(Method::POST, headers, Bytes::from_static(b"x")).await.unwrap();
        let told: Told = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((told.cluster.as_str(), told.pod.as_str()), ("east", "echo-1"));
        assert_eq!((told.version.as_str(), told.path.as_str()), (version, "/a?b"));
        assert_eq!(told.client_id.as_deref(), Some("web.demo"));
    }
}

#[tokio::test]
async fn echoes_bodies_and_counts_bytes() {
    let app = app().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let sent = Bytes::from(vec![7; 3 << 20]);
        let mut client = Client::new(target(&app, "/echo", protocol));
        let answer = client.send(Method::POST, HeaderMap::new(), sent.clone()).await.unwrap();
        assert_eq!(answer.body, sent);
        let mut client = Client::new(target(&app, "/bytes/100000", protocol));
        assert_eq!(client.get().await.unwrap().body.len(), 100_000);
    }
}

#[tokio::test]
async fn grpc_gets_its_messages_back_with_trailers() {
    let app = app().await;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    let message = Bytes::from_static(b"\0\0\0\0\x02hi");
    let mut client = Client::new(target(&app, "/mesh.demo.Echo/Say", Protocol::Http2));
    let answer = client.send(Method::POST, headers, message.clone()).await.unwrap();
    assert_eq!(answer.body, message);
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
}

#[tokio::test]
async fn bad_paths_say_what_is_expected() {
    let app = app().await;
    for path in ["/bytes/x", "/status/7", "/delay/-1"] {
        let answer = Client::new(target(&app, path, Protocol::Http1)).get().await.unwrap();
        assert_eq!(answer.status, 400, "{path}");
    }
    let answer = Client::new(target(&app, "/status/503", Protocol::Http1)).get().await.unwrap();
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn echoes_websocket_messages() {
    let app = app().await;
    let url = format!("ws://{}/ws", app.http);
    let io = tokio::net::TcpStream::connect(app.http).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(url, io).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "hello");
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn echoes_tcp_until_the_client_half_closes() {
    let app = app().await;
    let mut io = tokio::net::TcpStream::connect(app.tcp).await.unwrap();
    io.write_all(b"ping").await.unwrap();
    io.shutdown().await.unwrap();
    let mut back = Vec::new();
    io.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"ping");
}

#[tokio::test]
async fn load_counts_good_and_failed() {
    let app = app().await;
    let good = load::run(
        &target(&app, "/", Protocol::Http1),
        Pace::Closed { workers: 4, requests: 103, fresh: true },
    )
    .await;
    assert_eq!((good.good, good.failures()), (103, 0), "{good}");
    assert!(good.percentile(50.0) <= good.percentile(99.0));
    let bad = load::run(
        &target(&app, "/status/500", Protocol::Http2),
        Pace::Closed { workers: 2, requests: 5, fresh: false },
    )
    .await;
    assert_eq!(bad.failed.get("500"), Some(&5), "{bad}");
    let pace = Pace::Open { workers: 8, rate: 500, length: Duration::from_millis(200) };
    let open = load::run(&target(&app, "/", Protocol::Http1), pace).await;
    // A machine that pauses loses some to `overload`; none is lost otherwise, and none is made up.
    let overload = open.failed.get("overload").copied().unwrap_or_default();
    assert_eq!(open.failures(), overload, "{open}");
    assert!(open.good > 0 && open.good + overload <= 101, "{open}");
}
