//! # Tests of timeouts
//!
//! Job: each limit on its own, with paused time. Callers: `cargo test`.

use super::*;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn request(body: Body) -> Request<Body> {
    Request::post("/").body(body).unwrap()
}

/// A body whose frames come a second apart.
fn slow(frames: u64) -> Body {
    let frames = stream::iter(0..frames).then(|_| async {
        sleep(SECOND).await;
        Ok(Frame::data(Bytes::from_static(b"x")))
    });
    Body::boxed(StreamBody::new(frames))
}

/// Reads the request, waits, and answers with a slow body.
async fn answer(
    request: Request<Body>,
    progress: Progress,
    wait: Duration,
    frames: u64,
) -> Result<Response<Body>, Error> {
    progress.dispatched();
    request.into_body().collect().await?;
    sleep(wait).await;
    Ok(Response::new(slow(frames)))
}

fn kind(result: Result<Response<Body>, Error>) -> TimeoutKind {
    let error = result.map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("timed out waiting for response headers: "), "{error}");
    match error.root() {
        Error::Timeout(timeout) => timeout.kind,
        other => panic!("expected a timeout, not {other}"),
    }
}

// proves: TIME-2
#[tokio::test(start_paused = true)]
async fn the_whole_request_has_a_deadline() {
    let start = Instant::now();
    let limits = Limits { request: Some(Deadline::after(SECOND * 3)), ..Limits::default() };
    let sent = limits.enforce(request(Body::empty()), |r, p| answer(r, p, SECOND * 9, 0)).await;
    assert_eq!((kind(sent), start.elapsed()), (TimeoutKind::Request, SECOND * 3));
    let limits = Limits { request: Some(Deadline::after(SECOND * 5 / 2)), ..Limits::default() };
    let sent = limits.enforce(request(Body::empty()), |r, p| answer(r, p, SECOND, 9)).await;
    let mut body = sent.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.frame().await.unwrap().is_err(), "the body breaks");
    assert!(body.frame().await.is_none());
    assert_eq!(start.elapsed(), SECOND * 11 / 2);
}

// proves: TIME-3
#[tokio::test(start_paused = true)]
async fn the_response_has_its_time_from_the_last_byte_of_the_request() {
    let start = Instant::now();
    let limits = Limits { response: Some(SECOND * 2), ..Limits::default() };
    let sent = limits.enforce(request(slow(5)), |r, p| answer(r, p, SECOND * 9, 0)).await;
    assert_eq!((kind(sent), start.elapsed()), (TimeoutKind::Response, SECOND * 7));
    let waits_for_an_endpoint = |r, p| async move {
        sleep(SECOND * 60).await;
        answer(r, p, SECOND, 0).await
    };
    assert!(limits.enforce(request(Body::empty()), waits_for_an_endpoint).await.is_ok());
}

// proves: TIME-3
#[tokio::test(start_paused = true)]
async fn an_attempt_has_its_own_time_to_the_head() {
    let limits = Limits { head: Some(SECOND), response: Some(SECOND / 2), ..Limits::default() };
    let sent = limits.enforce(request(Body::empty()), |r, p| answer(r, p, SECOND * 2, 0)).await;
    assert_eq!(kind(sent), TimeoutKind::Head);
    let limits = Limits { response: Some(SECOND * 5), ..limits };
    let sent = limits.enforce(request(Body::empty()), |r, p| answer(r, p, SECOND / 2, 3)).await;
    assert_eq!(sent.unwrap().into_body().collect().await.unwrap().to_bytes(), "xxx");
}

// proves: TIME-4
#[tokio::test(start_paused = true)]
async fn silence_has_a_limit_wherever_it_falls() {
    let limits = Limits { idle: Some(SECOND * 2), ..Limits::default() };
    let start = Instant::now();
    let sent = limits.enforce(request(slow(5)), |r, p| answer(r, p, SECOND, 5)).await;
    let body = sent.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 5, "it moves all the time");
    assert_eq!(start.elapsed(), SECOND * 11);
    let sent = limits.enforce(request(Body::empty()), |r, p| answer(r, p, SECOND * 3, 0)).await;
    assert_eq!(kind(sent), TimeoutKind::Idle);
}
