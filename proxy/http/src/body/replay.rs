//! # Replay
//!
//! Job: let a request be sent again after a peer has refused it unseen: keeps the first part of its body
//! until a response begins.
//! May touch: frames of one body. Must not touch: the decision to retry. Callers: the balancer.

use super::Body;
use crate::error::Error;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// Most bytes kept for sending again, unless somebody asks for another limit.
const LIMIT: usize = 64 * 1024;

/// A body that can be sent more than once, while it is short.
pub(crate) enum Replay {
    Empty,
    Kept(Arc<Mutex<State>>),
}

/// One attempt's view of the body. An attempt made before the newest yields an error.
pub(crate) struct ReplayBody {
    state: Arc<Mutex<State>>,
    attempt: u32,
    next: usize,
}

pub(crate) struct State {
    kept: Vec<Bytes>,
    size: usize,
    limit: usize,
    rest: Body,
    phase: Phase,
    attempt: u32,
    /// Whether anything of the body has been forgotten or broken.
    spoiled: bool,
    /// No further attempt will come: nothing need be kept.
    settled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    Ended,
}

impl Replay {
    pub(crate) fn new(body: Body) -> Self {
        Self::with_limit(body, LIMIT)
    }

    /// Keeps up to `limit` bytes.
    pub(crate) fn with_limit(body: Body, limit: usize) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Kept(Arc::new(Mutex::new(State {
            kept: Vec::new(),
            size: 0,
            limit,
            rest: body,
            phase: Phase::Reading,
            attempt: 0,
            spoiled: false,
            settled: false,
        })))
    }

    /// The body for one more attempt.
    pub(crate) fn attempt(&self) -> Body {
        match self {
            Self::Empty => Body::empty(),
            Self::Kept(state) => {
                let attempt = {
                    let mut state = state.lock();
                    state.attempt += 1;
                    state.attempt
                };
                Body::replay(ReplayBody { state: state.clone(), attempt, next: 0 })
            }
        }
    }

    /// Whether the whole body can still be sent again.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Kept(state) => !state.lock().spoiled,
        }
    }

    /// A response has begun: forget what was kept.
    pub(crate) fn settle(self) {
        if let Self::Kept(state) = self {
            let mut state = state.lock();
            state.settled = true;
            if state.attempt <= 1 {
                state.kept = Vec::new();
            }
        }
    }
}

impl ReplayBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let state = &mut *self.state.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err(Error::Superseded)));
        }
        if let Some(data) = state.kept.get(self.next).filter(|_| self.attempt > 1) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if state.phase == Phase::Ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut state.rest).poll_frame(cx));
        state.note(&frame);
        self.next = state.kept.len();
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        let replayed = self.attempt <= 1 || self.next >= state.kept.len();
        let ended = state.phase == Phase::Ended || state.rest.is_end_stream();
        replayed && ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = self.state.lock();
        let left: usize = match self.attempt {
            0 | 1 => 0,
            _ => state.kept.iter().skip(self.next).map(Bytes::len).sum(),
        };
        match state.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + left as u64),
            None => SizeHint::default(),
        }
    }
}

impl State {
    fn note(&mut self, frame: &Option<Result<Frame<Bytes>, Error>>) {
        match frame {
            None => self.phase = Phase::Ended,
            Some(Err(_)) => self.spoiled = true,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else {
                    // Trailers were handed out; a further attempt would lack them.
                    self.phase = Phase::Ended;
                    self.spoiled = true;
                }
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.settled || self.spoiled {
            return;
        }
        self.size += data.len();
        if self.size > self.limit {
            self.spoiled = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(data.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    fn chunks(sizes: &'static [usize]) -> Body {
        let frames = sizes.iter().map(|n| Ok(Frame::data(Bytes::from(vec![b'x'; *n]))));
        Body::boxed(StreamBody::new(futures::stream::iter(frames)))
    }

    // proves: HTTP-9
    #[tokio::test]
    async fn a_short_body_is_sent_again_from_its_start() {
        let replay = Replay::new(chunks(&[3, 4, 5]));
        let mut first = replay.attempt();
        assert_eq!(first.frame().await.unwrap().unwrap().data_ref().unwrap().len(), 3);
        assert!(replay.is_whole());
        let second = replay.attempt();
        assert!(first.frame().await.unwrap().is_err(), "an old attempt may not go on");
        assert_eq!(second.collect().await.unwrap().to_bytes().len(), 12);
    }

    // proves: HTTP-9
    #[tokio::test]
    async fn a_long_body_is_not_kept() {
        let replay = Replay::new(chunks(&[40_000, 40_000]));
        let first = replay.attempt();
        assert_eq!(first.collect().await.unwrap().to_bytes().len(), 80_000);
        assert!(!replay.is_whole());
        assert!(Replay::new(Body::empty()).is_whole());
    }
}
