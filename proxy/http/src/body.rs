//! # Bodies
//!
//! Job: one body type for every source, passing data and trailers through untouched, and telling an
//! observer when the first data comes and how it ends.
//! May touch: frames. Must not touch: their meaning. Callers: servers, clients, metrics.

mod h2_recv;
mod h2_send;
mod replay;

pub(crate) use self::{h2_recv::H2Recv, h2_send::H2Send, replay::Replay};

use crate::error::Error;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A request or response body.
pub struct Body {
    kind: Kind,
    observer: Option<Box<dyn ObserveBody>>,
}

/// Told what happens to a body. Exactly one [`ObserveBody::end`] comes, at the latest on drop.
pub trait ObserveBody: Send + 'static {
    /// A data frame of `len` bytes passes.
    fn data(&mut self, len: usize);
    /// The body is over.
    fn end(&mut self, end: End<'_>);
}

/// How a body ended.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// Complete, with trailers if there were any.
    Complete(Option<&'a HeaderMap>),
    /// Broken by the sender or the connection.
    Failed(&'a Error),
    /// Abandoned by the reader.
    Dropped,
}

enum Kind {
    Empty,
    Full(Bytes),
    Hyper(hyper::body::Incoming),
    H2(H2Recv),
    Replay(replay::ReplayBody),
    Boxed(http_body_util::combinators::UnsyncBoxBody<Bytes, Error>),
}

/// An observer after another, in one allocation with it: a response may have three.
struct After<O> {
    before: Box<dyn ObserveBody>,
    own: O,
}

// === impl Body ===

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Kind::Empty.into()
    }

    /// These bytes.
    pub fn full(data: impl Into<Bytes>) -> Self {
        Kind::Full(data.into()).into()
    }

    /// A body of another kind.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        Kind::Boxed(http_body_util::BodyExt::boxed_unsync(body)).into()
    }

    /// Adds an observer; those added before are still told, and first.
    #[must_use]
    pub fn observed(mut self, observer: impl ObserveBody) -> Self {
        self.observer = Some(match self.observer.take() {
            None => Box::new(observer),
            Some(before) => Box::new(After { before, own: observer }),
        });
        self
    }

    pub(crate) fn h2(recv: H2Recv) -> Self {
        Kind::H2(recv).into()
    }

    pub(crate) fn replay(body: replay::ReplayBody) -> Self {
        Kind::Replay(body).into()
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(data) => {
                let data = std::mem::take(data);
                self.kind = Kind::Empty;
                Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
            }
            Kind::Hyper(body) => {
                Pin::new(body).poll_frame(cx).map(|f| f.map(|f| f.map_err(Error::from)))
            }
            Kind::H2(body) => body.poll_frame(cx),
            Kind::Replay(body) => body.poll_frame(cx),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn tell_end(&mut self, end: End<'_>) {
        if let Some(mut observer) = self.observer.take() {
            observer.end(end);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(self.poll_kind(cx));
        match &frame {
            None => self.tell_end(End::Complete(None)),
            Some(Err(error)) => self.tell_end(End::Failed(error)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let len = data.len();
                    if let Some(observer) = &mut self.observer {
                        observer.data(len);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.tell_end(End::Complete(Some(trailers)));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(data) => data.is_empty(),
            Kind::Hyper(body) => body.is_end_stream(),
            Kind::H2(body) => body.is_end_stream(),
            Kind::Replay(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(data) => SizeHint::with_exact(data.len() as u64),
            Kind::Hyper(body) => body.size_hint(),
            Kind::H2(_) if self.is_end_stream() => SizeHint::with_exact(0),
            Kind::H2(_) => SizeHint::default(),
            Kind::Replay(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.observer.is_some() {
            // A reader that has seen the last frame need not ask for one more.
            let end = if self.is_end_stream() { End::Complete(None) } else { End::Dropped };
            self.tell_end(end);
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("end", &self.is_end_stream()).finish_non_exhaustive()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, observer: None }
    }
}

impl From<hyper::body::Incoming> for Body {
    fn from(body: hyper::body::Incoming) -> Self {
        Kind::Hyper(body).into()
    }
}

// === impl After ===

impl<O: ObserveBody> ObserveBody for After<O> {
    fn data(&mut self, len: usize) {
        self.before.data(len);
        self.own.data(len);
    }

    fn end(&mut self, end: End<'_>) {
        self.before.end(end);
        self.own.end(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl ObserveBody for Log {
        fn data(&mut self, len: usize) {
            self.0.lock().unwrap().push(format!("data {len}"));
        }

        fn end(&mut self, end: End<'_>) {
            let text = match end {
                End::Complete(trailers) => format!("complete {}", trailers.is_some()),
                End::Failed(error) => format!("failed {error}"),
                End::Dropped => "dropped".into(),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    #[tokio::test]
    async fn observers_hear_data_and_one_end() {
        let log = Log::default();
        let body = Body::full("abc").observed(log.clone()).observed(log.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        assert_eq!(
            *log.0.lock().unwrap(),
            ["data 3", "data 3", "complete false", "complete false"]
        );
        let log = Log::default();
        drop(Body::full("abc").observed(log.clone()));
        drop(Body::empty().observed(log.clone()));
        assert_eq!(*log.0.lock().unwrap(), ["dropped", "complete false"]);
    }
}
