//! # Sent HTTP/2 bodies
//!
//! Job: send a body on a stream as fast as the peer's window allows, by direct calls of the codec.
//! May touch: one stream. Must not touch: the connection. Callers: the HTTP/2 client and server.

use super::Body;
use crate::error::{self, Error};
use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;
use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

/// A body on its way. Complete when the last frame is handed to the codec, or the stream is of no more
/// use; how it ended is told by the stream itself.
pub(crate) struct H2Send {
    body: Body,
    stream: SendStream<Bytes>,
    /// What is left of the frame at hand.
    rest: Bytes,
    /// Whether it is the last.
    last: bool,
}

impl H2Send {
    pub(crate) fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, rest: Bytes::new(), last: false }
    }

    /// Tells the peer that no more will come.
    pub(crate) fn cancel(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    /// Sends what can be sent without waiting; whether that is all. If not, it is to be polled.
    pub(crate) fn is_sent_now(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Sends what can be sent.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while !self.rest.is_empty() {
                if ready!(self.poll_piece(cx)).is_err() || (self.last && self.rest.is_empty()) {
                    return Poll::Ready(());
                }
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                // A peer that resets the stream wants no more.
                Poll::Pending => return self.stream.poll_reset(cx).map(drop),
            };
            // Sending fails only if the stream is gone.
            let _ = match frame {
                None => self.stream.send_data(Bytes::new(), true),
                Some(Err(error)) => {
                    self.stream.send_reset(reset_reason(&error));
                    Ok(())
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.last = self.body.is_end_stream();
                        if data.is_empty() && self.last {
                            self.stream.send_data(data, true)
                        } else {
                            self.rest = data;
                            continue;
                        }
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => self.stream.send_trailers(trailers),
                        Err(_) => continue,
                    },
                },
            };
            return Poll::Ready(());
        }
    }

    /// Sends as much of the frame at hand as there is room for. An error means that the stream is gone.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        self.stream.reserve_capacity(self.rest.len());
        // Mostly there is room at once, and nothing to wait for.
        let mut room = self.stream.capacity();
        while room == 0 {
            room = match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(_) => return Poll::Ready(Err(())),
                Poll::Pending => return self.stream.poll_reset(cx).map(|_| Err(())),
            };
        }
        let piece = self.rest.split_to(room.min(self.rest.len()));
        let ends = self.last && self.rest.is_empty();
        Poll::Ready(self.stream.send_data(piece, ends).map_err(drop))
    }
}

/// How the stream of a body that broke ends.
fn reset_reason(error: &Error) -> Reason {
    match error.root() {
        Error::Hyper(hyper) => {
            error::h2_source(hyper).and_then(h2::Error::reason).unwrap_or(Reason::CANCEL)
        }
        Error::H2(h2) => h2.reason().unwrap_or(Reason::CANCEL),
        _ => Reason::CANCEL,
    }
}
