//! # Tests of the HTTP server
//!
//! Job: drain, over pipes in memory. Callers: `cargo test`.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Clone)]
struct Well;

impl Service for Well {
    async fn call(&self, _: Request<Body>) -> Result<Response<Body>, Error> {
        Ok(Response::new(Body::full("well")))
    }
}

// proves: OUT-11
#[tokio::test]
async fn a_request_that_has_arrived_is_answered_though_the_drain_has_begun() {
    // Often enough for any order of looking at both.
    for _ in 0..50 {
        let (mut near, far) = tokio::io::duplex(4096);
        near.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        let params = ServerParams::default();
        let drained = std::future::ready(());
        serve(far, HttpVersion::Http1, &params, Well, drained).await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("well"), "{answer}");
    }
}

// proves: OUT-11
#[tokio::test]
async fn an_idle_connection_closes_at_the_drain() {
    let (mut near, far) = tokio::io::duplex(4096);
    let params = ServerParams::default();
    serve(far, HttpVersion::Http1, &params, Well, std::future::ready(())).await.unwrap();
    assert_eq!(near.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}

// proves: FAULT-10
#[tokio::test(start_paused = true)]
async fn a_preface_has_a_deadline() {
    let (mut near, far) = tokio::io::duplex(4096);
    near.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let start = tokio::time::Instant::now();
    let params = ServerParams::default();
    let never = std::future::pending();
    let ended = serve(far, HttpVersion::Http2, &params, Well, never).await;
    assert!(matches!(ended, Err(Error::Io(_))), "{ended:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}
