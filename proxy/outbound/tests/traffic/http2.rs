//! # HTTP/2 and gRPC
//!
//! Job: streams, trailers, resets through the proxy. Must not touch: anything but loopback.

use crate::harness::*;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_http::{Body, Error, detect::HttpVersion};

fn with_trailers(data: &'static [u8], trailers: HeaderMap) -> Body {
    let frames =
        [Ok::<_, Error>(Frame::data(Bytes::from_static(data))), Ok(Frame::trailers(trailers))];
    Body::boxed(StreamBody::new(futures::stream::iter(frames)))
}

// proves: HTTP-11
#[tokio::test]
async fn trailers_pass_both_ways() {
    let rig = Rig::new();
    let server = serve(HttpVersion::Http2, |request: Request<Body>| async move {
        let collected = request.into_body().collect().await.unwrap();
        let sent = collected.trailers().cloned().unwrap_or_default();
        let data = collected.to_bytes();
        assert_eq!(data, "question");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", sent["x-sent"].clone());
        Response::new(with_trailers(b"answer", trailers))
    })
    .await;
    let mut client = h2(rig.entrance(&server.to_string()).await).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent", "7".parse().unwrap());
    let request = Request::post("http://web/svc/Method")
        .header("content-type", "application/grpc")
        .body(with_trailers(b"question", trailers))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "7");
    assert_eq!(collected.to_bytes(), "answer");
}

// proves: HTTP-11
#[tokio::test]
async fn a_large_body_flows_both_ways_at_once() {
    let rig = Rig::new();
    let server = serve(HttpVersion::Http2, echo).await;
    let mut client = h2(rig.entrance(&server.to_string()).await).await;
    for size in [0, 1, 16_384, 64 << 20] {
        let request =
            Request::post("http://web/echo").body(Body::full(Bytes::from(vec![5; size]))).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), size);
    }
}

// proves: HTTP-4
#[tokio::test]
async fn resets_pass_and_grpc_errors_have_their_form() {
    let rig = Rig::new();
    let (listener, addr) = bind().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = ::h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(::h2::Reason::ENHANCE_YOUR_CALM);
        }
    });
    let mut client = h2(rig.entrance(&addr.to_string()).await).await;
    let request = Request::get("http://web/").body(Body::empty()).unwrap();
    let error = client.send_request(request).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<::h2::Error>().unwrap();
    assert_eq!(source.reason(), Some(::h2::Reason::ENHANCE_YOUR_CALM));

    let (listener, gone) = bind().await;
    drop(listener);
    let mut client = h2(rig.entrance(&gone.to_string()).await).await;
    let request = Request::post("http://web/a/b")
        .header("content-type", "application/grpc+proto")
        .body(Body::empty())
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    let reason = response.headers()["l5d-proxy-error"].to_str().unwrap().to_owned();
    assert!(reason.contains(&format!("endpoint {gone}")), "{reason}");
}
