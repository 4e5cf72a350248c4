//! # Tests of retries
//!
//! Job: what calls for a retry, what ends them, and that no frame is lost. Callers: `cargo test`.

use super::*;
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;

/// Retries 503 and trailers with `x: again`, twice at most, a second apart.
#[derive(Default)]
struct Twice(Mutex<Vec<Event>>);

impl Policy for Twice {
    fn max_body(&self) -> usize {
        8
    }
    fn head(&self, response: &Response<Body>) -> Verdict {
        match response.status().as_u16() {
            503 => Verdict::Retry,
            200 => Verdict::Trailers,
            _ => Verdict::Keep,
        }
    }
    fn trailers(&self, trailers: &HeaderMap) -> bool {
        trailers.get("x").is_some_and(|x| x == "again")
    }
    fn error(&self, error: &Error) -> bool {
        matches!(error.root(), Error::FailFast)
    }
    fn permit(&self, n: u32, _: Option<&Response<Body>>) -> Result<Duration, Spent> {
        if n > 2 { Err(Spent) } else { Ok(Duration::from_secs(1)) }
    }
    fn note(&self, event: Event) {
        self.0.lock().push(event);
    }
}

fn post(body: &'static str) -> Request<Body> {
    Request::post("/").body(Body::full(body)).unwrap()
}

fn status(code: u16) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(code).body(Body::empty()).unwrap())
}

fn frames(parts: Vec<Frame<Bytes>>, open: bool) -> Body {
    use futures::StreamExt;
    let parts = stream::iter(parts.into_iter().map(Ok));
    match open {
        false => Body::boxed(StreamBody::new(parts)),
        true => Body::boxed(StreamBody::new(parts.chain(stream::pending()))),
    }
}

fn trailers(value: &str) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("x", value.parse().unwrap());
    Frame::trailers(map)
}

fn data() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(b"abc"))
}

async fn next(
    retries: &mut Retries<'_, Twice>,
    result: Result<Response<Body>, Error>,
) -> Option<Result<u16, String>> {
    match retries.next(result, None, || true).await {
        Next::Again => None,
        Next::Done(result) => Some(result.map(|r| r.status().as_u16()).map_err(|e| e.to_string())),
    }
}

// proves: RETRY-1
#[tokio::test(start_paused = true)]
async fn the_body_is_sent_again_until_something_else_comes() {
    let policy = Twice::default();
    let mut retries = Retries::new(&policy, post("body")).ok().unwrap();
    let start = Instant::now();
    for code in [503, 503] {
        let sent = retries.attempt().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(sent, "body");
        assert_eq!(next(&mut retries, status(code)).await, None);
    }
    assert_eq!(next(&mut retries, status(404)).await, Some(Ok(404)));
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(*policy.0.lock(), [Event::Sent, Event::Sent, Event::Success]);
}

// proves: RETRY-2
#[tokio::test(start_paused = true)]
async fn the_last_response_is_returned_when_retries_end() {
    let policy = Twice::default();
    let mut retries = Retries::new(&policy, post("")).ok().unwrap();
    assert_eq!(next(&mut retries, Err(Error::FailFast)).await, None);
    assert_eq!(next(&mut retries, status(503)).await, None);
    assert_eq!(next(&mut retries, status(503)).await, Some(Ok(503)));
    assert_eq!(policy.0.lock().last(), Some(&Event::LimitExceeded));

    let mut retries = Retries::new(&policy, post("")).ok().unwrap();
    let nowhere = retries.next(status(503), None, || false).await;
    assert!(matches!(nowhere, Next::Done(Ok(_))));
    assert_eq!(policy.0.lock().last(), Some(&Event::Overflow));
    let soon = Instant::now() + Duration::from_millis(900);
    let late = retries.next(status(503), Some(soon), || true).await;
    assert!(matches!(late, Next::Done(Ok(_))), "no time is left");
    let other = next(&mut retries, Err(Error::LoadShed)).await;
    assert_eq!(other, Some(Err("service unavailable".into())));
}

// proves: RETRY-3
#[tokio::test(start_paused = true)]
async fn long_bodies_and_tunnels_are_sent_once() {
    let policy = Twice::default();
    let declared = Request::post("/").header("content-length", "9").body(Body::full("123456789"));
    assert!(Retries::new(&policy, declared.unwrap()).is_err());
    let tunnel = Request::get("/").header("upgrade", "websocket").body(Body::empty());
    assert!(Retries::new(&policy, tunnel.unwrap()).is_err());
    let mut retries = Retries::new(&policy, post("123456789")).ok().unwrap();
    let sent = retries.attempt().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(sent.len(), 9);
    assert_eq!(next(&mut retries, status(503)).await, Some(Ok(503)));
}

// proves: RETRY-4
#[tokio::test(start_paused = true)]
async fn early_trailers_call_for_a_retry_and_no_frame_is_lost() {
    let policy = Twice::default();
    let mut retries = Retries::new(&policy, post("")).ok().unwrap();
    for body in [vec![trailers("again")], vec![data(), trailers("again")]] {
        let response = Ok(Response::new(frames(body, false)));
        assert_eq!(next(&mut retries, response).await, None);
    }
    for (body, open, length) in [
        (vec![data(), trailers("fine")], false, 3),
        (vec![data(), data(), trailers("again")], false, 6),
        (vec![trailers("fine")], false, 0),
    ] {
        let response = Ok(Response::new(frames(body, open)));
        let Next::Done(Ok(kept)) = retries.next(response, None, || true).await else {
            panic!("expected the response");
        };
        let collected = kept.into_body().collect().await.unwrap();
        assert!(collected.trailers().is_some());
        assert_eq!(collected.to_bytes().len(), length);
    }
    // The second frame is not there yet: the first one is kept, and nobody waits.
    let response = Ok(Response::new(frames(vec![data()], true)));
    let Next::Done(Ok(kept)) = retries.next(response, None, || true).await else {
        panic!("expected the response");
    };
    let frame = kept.into_body().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "abc");
}
