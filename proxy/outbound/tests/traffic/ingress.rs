//! # Ingress mode
//!
//! Job: requests that name their target in a header. Must not touch: anything but loopback.

use crate::harness::*;
use http::{Request, Response};
use mesh_http::{Body, detect::HttpVersion};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const NAME: &str = "web.shop.svc.cluster.local:80";

/// Tells whether it sees the header.
async fn tell(request: Request<Body>) -> Response<Body> {
    let seen = request.headers().contains_key("l5d-dst-override");
    Response::new(Body::full(format!("{} {seen}", request.headers()["host"].to_str().unwrap())))
}

async fn ask(ingress: SocketAddr, target: Option<&str>) -> (u16, String, String) {
    let mut request = Request::get("/some/path").header("host", "example.com");
    if let Some(target) = target {
        request = request.header("l5d-dst-override", target);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = h1(ingress).await.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let reason = response.headers().get("l5d-proxy-error").map(|v| v.to_str().unwrap().to_owned());
    (status, reason.unwrap_or_default(), text(response.into_body()).await)
}

// proves: OUT-14
#[tokio::test]
async fn each_request_names_its_target() {
    let rig = Rig::new();
    let original: SocketAddr = "127.201.0.1:9".parse().unwrap();
    rig.known.service(NAME, false, plain(serve(HttpVersion::Http1, tell).await));
    let ingress = rig.ingress(original).await;
    for named in [NAME, "web.shop.svc.cluster.local"] {
        let (status, _, body) = ask(ingress, Some(named)).await;
        assert_eq!((status, body.as_str()), (200, "example.com false"), "{named}");
    }
    let (status, reason, _) = ask(ingress, Some("not a name")).await;
    assert_eq!(status, 400, "{reason}");
    for unknown in [Some("api.shop.svc.cluster.local"), None] {
        let (status, reason, _) = ask(ingress, unknown).await;
        assert_eq!(status, 502, "{reason}");
        assert!(reason.contains("ingress-mode routing requires discovery"), "{reason}");
    }
}

// proves: OUT-14
#[tokio::test]
async fn other_bytes_go_where_they_wanted_to() {
    let rig = Rig::new();
    let (listener, original) = bind().await;
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut got = [0; 20];
        io.read_exact(&mut got).await.unwrap();
        io.write_all(&got).await.unwrap();
    });
    let mut io = TcpStream::connect(rig.ingress(original).await).await.unwrap();
    io.write_all(b"this is no HTTP/1 at").await.unwrap();
    let mut back = String::new();
    io.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "this is no HTTP/1 at");
}
