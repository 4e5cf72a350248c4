//! # Explicit mode
//!
//! Job: clients that name the proxy. Must not touch: anything but loopback.

use crate::harness::*;
use http::Request;
use mesh_discover::State;
use mesh_http::{Body, detect::HttpVersion};
use mesh_model::endpoint::EndpointSet;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const NAME: &str = "echo-east.demo.svc.cluster.local:80";

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: echo-east.demo\r\nConnection: close\r\n\r\n")
}

// proves: OUT-4 OUT-5
#[tokio::test]
async fn a_service_that_appears_is_served_at_once() {
    let rig = Rig::new();
    let (addr, mut heads) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let proxy = rig.explicit().await;
    for _ in 0..3 {
        let response = converse(proxy, &get("http://echo-east.demo/a")).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        assert!(
            response.contains("l5d-proxy-error: no such Service: echo-east.demo"),
            "{response}"
        );
        assert!(response.contains("\r\n\r\nno such Service"), "{response}");
    }
    rig.known.service(NAME, false, plain(addr));
    for target in ["http://echo-east.demo/a", "http://echo-east.demo.svc.cluster.local:80/a"] {
        let response = converse(proxy, &get(target)).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("GET /a HTTP/1.1\r\nhost: echo-east.demo\r\n"), "{head}");
    }
    rig.known
        .profiles
        .lock()
        .unwrap()
        .remove(NAME)
        .unwrap()
        .send_replace(State::Refused(missing()));
    becomes(proxy, "HTTP/1.1 502 ").await;
}

// proves: OUT-5
#[tokio::test]
async fn many_who_ask_for_what_is_not_there_ask_once() {
    let rig = Rig::new();
    let proxy = rig.explicit().await;
    // Discovery has not answered yet.
    let (answer, _) = tokio::sync::watch::channel(State::Pending);
    let asked = answer.clone();
    rig.known.profiles.lock().unwrap().insert(NAME.into(), answer);
    let request = get("http://echo-east.demo/a");
    let clients = futures::future::join_all((0..20).map(|_| converse(proxy, &request)));
    let answered = async {
        until("somebody asks", || asked.receiver_count() > 0).await;
        assert_eq!(asked.receiver_count(), 1);
        asked.send_replace(State::Refused(missing()));
    };
    let (responses, ()) = tokio::join!(clients, answered);
    for response in responses {
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    }
    assert_eq!(asked.receiver_count(), 0, "nothing is kept");
}

// proves: OUT-4
#[tokio::test]
async fn other_targets_are_refused_with_the_reason() {
    let rig = Rig::new();
    let proxy = rig.explicit().await;
    for target in
        ["http://example.com.org.net/", "http://10.0.0.1:80/", "http://single/", "/origin"]
    {
        let response = converse(proxy, &get(target)).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{target}: {response}");
        assert!(response.contains("l5d-proxy-error: "), "{target}: {response}");
    }
    // Bytes that are no HTTP: closed without an answer.
    assert_eq!(converse(proxy, "SSH-2.0-OpenSSH_9.2p1\r\n").await, "");
}

// proves: OUT-4
#[tokio::test]
async fn http2_names_its_target_per_request() {
    let rig = Rig::new();
    let one = serve(HttpVersion::Http2, |_| async { http::Response::new(Body::full("one")) }).await;
    let two = serve(HttpVersion::Http2, |_| async { http::Response::new(Body::full("two")) }).await;
    rig.known.service("one.demo.svc.cluster.local:80", false, plain(one));
    rig.known.service("two.demo.svc.cluster.local:8080", false, plain(two));
    let mut client = h2(rig.explicit().await).await;
    for (target, expected) in [("http://one.demo/", "one"), ("http://two.demo:8080/", "two")] {
        let request = Request::get(target).body(Body::empty()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(text(response.into_body()).await, expected);
    }
}

// proves: OUT-9
#[tokio::test]
async fn connect_tunnels_bytes_and_http() {
    let rig = Rig::new();
    let (listener, tcp) = bind().await;
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        // The server speaks first: the port is opaque, so nobody waits for the client.
        io.write_all(b"220 ready\r\n").await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        io.write_all(&all).await.unwrap();
    });
    rig.known.service("mail.demo.svc.cluster.local:25", true, plain(tcp));
    let (web, _heads) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    rig.known.service(NAME, false, plain(web));
    let proxy = rig.explicit().await;

    let mut io = TcpStream::connect(proxy).await.unwrap();
    io.write_all(b"CONNECT mail.demo:25 HTTP/1.1\r\nHost: mail.demo:25\r\n\r\n").await.unwrap();
    assert!(read_head(&mut io).await.unwrap().unwrap().starts_with("HTTP/1.1 200"));
    let mut greeting = [0; 11];
    io.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    io.write_all(b"QUIT").await.unwrap();
    io.shutdown().await.unwrap();
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "QUIT");

    let mut io = TcpStream::connect(proxy).await.unwrap();
    io.write_all(b"CONNECT echo-east.demo:80 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_head(&mut io).await.unwrap().unwrap().starts_with("HTTP/1.1 200"));
    io.write_all(b"GET /in HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("ok"), "{rest}");
}

// proves: OUT-10
#[tokio::test]
async fn random_bytes_never_stop_the_listener() {
    let rig = Rig::with(|config| config.detect_timeout = Duration::from_millis(20));
    let (addr, _heads) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    rig.known.service(NAME, false, plain(addr));
    let proxy = rig.explicit().await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let heads: [&[u8]; 5] = [
        b"",
        b"GET ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT ",
        b"POST http://echo-east.demo/ HTTP/1.1\r\n",
    ];
    for round in 0..1000 {
        let mut bytes = heads[round % heads.len()].to_vec();
        for _ in 0..round % 90 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push((state >> 24) as u8);
        }
        let mut io = TcpStream::connect(proxy).await.unwrap();
        let _ = io.write_all(&bytes).await;
    }
    let response = converse(proxy, &get("http://echo-east.demo/a")).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

// proves: OUT-5
#[tokio::test]
async fn a_service_without_endpoints_fails_fast_and_recovers() {
    let rig = Rig::with(|config| config.balance.failfast = Duration::from_millis(100));
    let (addr, _heads) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    rig.known.service(NAME, false, EndpointSet::default());
    let proxy = rig.explicit().await;
    for _ in 0..2 {
        let response = converse(proxy, &get("http://echo-east.demo/a")).await;
        assert!(response.starts_with("HTTP/1.1 504 "), "{response}");
        assert!(response.contains("service in fail-fast"), "{response}");
    }
    rig.known.set(NAME, plain(addr));
    becomes(proxy, "HTTP/1.1 200 ").await;
}

/// Asks until the answer begins so.
async fn becomes(proxy: std::net::SocketAddr, expected: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let response = converse(proxy, &get("http://echo-east.demo/a")).await;
        if response.starts_with(expected) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{response}");
    }
}
