//! # Timeouts of requests
//!
//! Job: end a request that takes too long: as a whole, from its last byte to the head or the end of its
//! response, or without a byte in either direction.
//! May touch: frames as they pass, one timer a request that has limits. Must not touch: what is sent.
//! Callers: outbound's routes.
//!
//! Before the head of the response a limit is an error; after it, the body breaks. Nothing is paid by
//! requests without limits: they do not come here.

use crate::{Body, error::Error};
use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// The limits of one attempt; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// When the request must have ended, and how long it had.
    pub request: Option<Deadline>,
    /// From the request's last byte to the head of the response; takes the place of `response` till then.
    pub head: Option<Duration>,
    /// From the request's last byte to the last of the response.
    pub response: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
}

/// An end, and how long it was to it at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The end.
    pub at: Instant,
    /// The limit that set it.
    pub limit: Duration,
}

/// A limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {limit:?}")]
pub struct Timeout {
    /// Which.
    pub kind: TimeoutKind,
    /// How long it was.
    pub limit: Duration,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeoutKind {
    /// Of the whole request.
    Request,
    /// Of one attempt, to the head of its response.
    Head,
    /// Of the response.
    Response,
    /// Of silence.
    Idle,
}

/// Tells where the request is. Cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<Shared>);

/// Times are microseconds since `start`, plus one; 0 is "not yet".
struct Shared {
    start: Instant,
    /// The request has no body, so that it is sent when it is dispatched.
    bare: bool,
    dispatched: AtomicU64,
    sent: AtomicU64,
    active: AtomicU64,
    waker: AtomicWaker,
}

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }
}

impl Limits {
    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Sends a request within these limits. `send` tells the progress when it has found an endpoint.
    ///
    /// # Errors
    /// The call's own, or [`Error::Timeout`].
    pub async fn enforce<F>(
        self,
        request: Request<Body>,
        send: impl FnOnce(Request<Body>, Progress) -> F,
    ) -> Result<Response<Body>, Error>
    where
        F: Future<Output = Result<Response<Body>, Error>>,
    {
        let progress = Progress::new(request.body().is_end_stream());
        let request = match request.body().is_end_stream() {
            true => request,
            false => request.map(|body| Body::boxed(Sending { body, progress: progress.clone() })),
        };
        let mut timer = Timer { limits: self, progress: progress.clone(), head: true, sleep: None };
        let mut call = pin!(send(request, progress));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = call.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            timer.poll_passed(cx).map(|timeout| {
                Err(Error::Timeout(timeout).at("timed out waiting for response headers"))
            })
        });
        let response = result.await?;
        if response.body().is_end_stream() {
            return Ok(response);
        }
        timer.progress.touch();
        timer.head = false;
        timer.limits.head = None;
        Ok(response.map(|body| Body::boxed(Receiving { body, timer, broken: false })))
    }
}

impl fmt::Display for TimeoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request timeout",
            Self::Head => "response header timeout",
            Self::Response => "response stream timeout",
            Self::Idle => "idle timeout",
        })
    }
}

// === impl Progress ===

impl Progress {
    fn new(bare: bool) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            bare,
            dispatched: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            active: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        }))
    }

    /// The request goes to an endpoint now; from here silence counts.
    pub fn dispatched(&self) {
        let now = self.now();
        self.0.dispatched.store(now, Ordering::Relaxed);
        self.0.active.store(now, Ordering::Relaxed);
        if self.0.bare {
            self.0.sent.store(now, Ordering::Relaxed);
        }
        self.0.waker.wake();
    }

    fn sent(&self) {
        let first =
            self.0.sent.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.0.waker.wake();
        }
    }

    fn touch(&self) {
        self.0.active.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    fn at(&self, time: &AtomicU64) -> Option<Instant> {
        let micros = time.load(Ordering::Relaxed).checked_sub(1)?;
        self.0.start.checked_add(Duration::from_micros(micros))
    }
}

// === the timer ===

struct Timer {
    limits: Limits,
    progress: Progress,
    /// The head of the response is awaited.
    head: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Timeout> {
        // Before looking, so that a change in between is told.
        self.progress.0.waker.register(cx.waker());
        loop {
            let Some((at, timeout)) = self.next() else { return Poll::Pending };
            if at <= Instant::now() {
                return Poll::Ready(timeout);
            }
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // Silence is broken all the time: the timer is set anew only when it has fired, or is late.
            if sleep.deadline() > at || sleep.is_elapsed() {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }

    /// The next limit to be passed.
    fn next(&self) -> Option<(Instant, Timeout)> {
        let Limits { request, head, response, idle } = self.limits;
        let (sent, active) = (&self.progress.0.sent, &self.progress.0.active);
        let after = |from: &AtomicU64, kind, limit: Option<Duration>| {
            let limit = limit?;
            let at = self.progress.at(from)?.checked_add(limit)?;
            Some((at, Timeout { kind, limit }))
        };
        let of_head = head.filter(|_| self.head);
        let of_response = response.filter(|_| of_head.is_none());
        [
            request
                .map(|Deadline { at, limit }| (at, Timeout { kind: TimeoutKind::Request, limit })),
            after(sent, TimeoutKind::Head, of_head),
            after(sent, TimeoutKind::Response, of_response),
            after(active, TimeoutKind::Idle, idle),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

// === bodies ===

/// A request's body that tells when it moves and when it has been sent.
struct Sending {
    body: Body,
    progress: Progress,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.touch();
        if frame.is_none() || self.body.is_end_stream() {
            self.progress.sent();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that breaks when a limit is passed.
struct Receiving {
    body: Body,
    timer: Timer,
    broken: bool,
}

impl http_body::Body for Receiving {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        let timeout = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => ready!(self.timer.poll_passed(cx)),
            Poll::Ready(frame) => {
                self.timer.progress.touch();
                // A body that never pauses has no more time than others.
                match self.timer.next() {
                    Some((at, timeout)) if frame.is_some() && at <= Instant::now() => timeout,
                    _ => return Poll::Ready(frame),
                }
            }
        };
        self.broken = true;
        // The peer learns at once that nobody reads on.
        self.body = Body::empty();
        Poll::Ready(Some(Err(Error::Timeout(timeout))))
    }

    fn is_end_stream(&self) -> bool {
        !self.broken && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
