//! # gRPC body rescue
//!
//! Job: turn a failure in the middle of a gRPC response into trailers, as a gRPC client expects.
//! May touch: frames. Must not touch: resets, which pass. Callers: the server.

use super::{Problem, header_value};
use crate::{Body, error::Error, headers};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version};
use http_body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Wraps the body of a gRPC response.
pub(crate) fn rescue_body(body: Body, informational: bool) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::boxed(Rescue { body, informational, done: false })
}

struct Rescue {
    body: Body,
    informational: bool,
    done: bool,
}

impl http_body::Body for Rescue {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let error = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(error)) => error,
            other => return Poll::Ready(other),
        };
        self.done = true;
        Poll::Ready(Some(match Problem::of(&error, Version::HTTP_2) {
            None => Err(error),
            Some(problem) => Ok(Frame::trailers(trailers(&problem, self.informational))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn trailers(problem: &Problem, informational: bool) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(headers::GRPC_STATUS, HeaderValue::from(problem.grpc as u16));
    if informational {
        trailers.insert(headers::GRPC_MESSAGE, header_value(&problem.message));
        trailers.insert(headers::PROXY_ERROR, header_value(&problem.message));
    }
    trailers
}
