//! # A look at trailers
//!
//! Job: see the trailers of a response that has at most one frame before them, without losing a frame.
//! May touch: the first two frames. Must not touch: more of the body. Callers: retries.

use crate::{Body, error::Error};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Waits for the first frame; looks at the second if it is there already. All that was read is given back
/// with the response.
pub(super) async fn peek(response: Response<Body>) -> (Response<Body>, Option<HeaderMap>) {
    let (head, mut body) = response.into_parts();
    if body.is_end_stream() {
        return (Response::from_parts(head, body), None);
    }
    let first = body.frame().await;
    let mut held = Held { first: None, second: None, rest: Body::empty() };
    let is_data = matches!(&first, Some(Ok(frame)) if frame.is_data());
    held.first = first;
    if is_data && !body.is_end_stream() {
        held.second = body.frame().now_or_never().flatten();
    }
    let of = |frame: &Option<Result<Frame<Bytes>, Error>>| match frame {
        Some(Ok(frame)) => frame.trailers_ref().cloned(),
        Some(Err(_)) | None => None,
    };
    let trailers = of(&held.first).or_else(|| of(&held.second));
    held.rest = body;
    (Response::from_parts(head, Body::boxed(held)), trailers)
}

/// A body of which up to two frames were read.
struct Held {
    first: Option<Result<Frame<Bytes>, Error>>,
    second: Option<Result<Frame<Bytes>, Error>>,
    rest: Body,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let held = self.first.take().or_else(|| self.second.take());
        match held {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.second.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = |frame: &Option<Result<Frame<Bytes>, Error>>| match frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(_)) | None => 0,
        };
        let held = data(&self.first) + data(&self.second);
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + held),
            None => SizeHint::default(),
        }
    }
}
