//! # A stream that is kept open
//!
//! Job: drive one server-streaming call for as long as somebody listens: deadlines, retries by code,
//! backoff, and the last state kept while the stream is away. A panic is one more end of a stream.
//! May touch: timers, tasks. Must not touch: what messages mean. Callers: `destination`, `policy`.

use crate::channel::Channel;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use mesh_process::tasks;
use mesh_stack::backoff::{Attempts, Backoff};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

/// What is known of something looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State<T> {
    /// No answer yet.
    #[default]
    Pending,
    /// The last good answer, whether or not its stream is up.
    Known(T),
    /// The control plane answered that there is none.
    Refused(Refusal),
}

/// An answer that says no, and is no failure of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Which.
    pub code: RefusalCode,
    /// In the control plane's words.
    pub message: Arc<str>,
}

/// The codes that a caller has to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The name cannot be looked up there. Final for this stream.
    InvalidArgument,
    /// The name must not be looked up, such as a Service that is not exported. Final for this stream.
    FailedPrecondition,
    /// There is no such thing now. Endpoint and profile streams keep asking.
    NotFound,
    /// The control plane does not know the call.
    Unimplemented,
}

/// Deadlines of a stream; `None` is no deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// For the first message.
    pub initial: Option<Duration>,
    /// Between messages; the stream is then opened anew.
    pub idle: Option<Duration>,
    /// In all; the stream is then opened anew.
    pub lifetime: Option<Duration>,
}

/// Time between attempts until the first success: at start-up the control plane is about to come.
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// Time between the return of a connection and the next attempt of the streams that wait; doubled for each
/// connection that brought nothing.
const UP_PAUSE: Duration = Duration::from_millis(20);

pub(crate) type Messages<M> = BoxStream<'static, Result<M, Status>>;

/// One kind of stream.
pub(crate) trait Source: Send + 'static {
    /// Messages of the call.
    type Message: Send;
    /// What is published.
    type Value: Send + Sync + 'static;

    /// Opens a stream.
    fn open(&self) -> BoxFuture<'static, Result<Messages<Self::Message>, Status>>;
    /// A new stream is open.
    fn reconnected(&mut self) {}
    /// A message has come.
    fn apply(&mut self, message: Self::Message, out: &watch::Sender<Self::Value>);
    /// The control plane said no. True if the stream ends for good.
    fn refused(&mut self, refusal: Refusal, out: &watch::Sender<Self::Value>) -> bool;
    /// Codes that are answers rather than failures.
    fn is_answer(&self, code: RefusalCode) -> bool;
    /// For logs.
    fn describe(&self) -> String;
}

/// How one stream ended.
enum End {
    /// As streams do; it is opened again.
    Retry(Status),
    /// Nobody listens, or the answer is final.
    Final,
}

/// Runs `source` on the channel's runtime until its last receiver is gone.
pub(crate) fn spawn<S: Source>(
    channel: &Channel,
    limits: StreamLimits,
    source: S,
    start: S::Value,
) -> watch::Receiver<S::Value> {
    let (out, receiver) = watch::channel(start);
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 0.1)
        .unwrap_or(Backoff::INBOUND);
    let driver = Driver {
        source,
        limits,
        attempts: backoff.attempts(),
        had_message: false,
        hopes: 0,
        ups: channel.ups(),
    };
    channel.runtime().spawn(async move {
        tokio::select! {
            () = out.closed() => {}
            () = driver.run(&out) => {}
        }
    });
    receiver
}

struct Driver<S> {
    source: S,
    limits: StreamLimits,
    attempts: Attempts,
    had_message: bool,
    /// Connections that came up since the last message, and brought none.
    hopes: u32,
    ups: watch::Receiver<u64>,
}

impl<S: Source> Driver<S> {
    async fn run(mut self, out: &watch::Sender<S::Value>) {
        loop {
            // What a panic leaves half done, the first message of the next stream replaces.
            let status = match tasks::caught("control-plane stream", self.once(out)).await {
                Ok(End::Final) => return,
                Ok(End::Retry(status)) => status,
                Err(panicked) => Status::internal(panicked.to_string()),
            };
            let delay = if self.had_message { self.attempts.next_delay() } else { FIRST_RETRY };
            tracing::debug!(stream = %self.source.describe(), %status, ?delay, "Stream ended; will be opened again");
            // Only a connection that comes up from now on is news.
            self.ups.mark_unchanged();
            let wait = tokio::time::sleep(delay);
            tokio::pin!(wait);
            tokio::select! {
                () = &mut wait => {}
                Ok(()) = self.ups.changed() => {
                    // A service that closes what it accepts must not make its clients spin.
                    let soon = Instant::now() + UP_PAUSE * (1 << self.hopes.min(8));
                    self.hopes += 1;
                    if soon < wait.deadline() {
                        wait.as_mut().reset(soon);
                    }
                    wait.await;
                }
            }
        }
    }

    async fn once(&mut self, out: &watch::Sender<S::Value>) -> End {
        let start = Instant::now();
        let first_by = self.limits.initial.map(|d| start + d);
        let life_ends = self.limits.lifetime.map(|d| start + d);
        let mut messages = match by(first_by, self.source.open()).await {
            None => return End::Retry(deadline()),
            Some(Err(status)) => return self.ended(status, out),
            Some(Ok(messages)) => messages,
        };
        self.source.reconnected();
        let mut next_by = first_by;
        loop {
            let until = earlier(next_by, life_ends);
            match by(until, messages.next()).await {
                None if next_by == first_by => return End::Retry(deadline()),
                None => return End::Retry(Status::ok("the stream's time is over")),
                Some(None) => return End::Retry(Status::ok("the stream was closed")),
                Some(Some(Err(status))) => return self.ended(status, out),
                Some(Some(Ok(message))) => {
                    self.had_message = true;
                    self.source.apply(message, out);
                    self.attempts.reset();
                    self.hopes = 0;
                    next_by = self.limits.idle.map(|d| Instant::now() + d);
                }
            }
        }
    }

    fn ended(&mut self, status: Status, out: &watch::Sender<S::Value>) -> End {
        let code = RefusalCode::of(status.code()).filter(|c| self.source.is_answer(*c));
        let Some(code) = code else { return End::Retry(status) };
        let refusal = Refusal { code, message: status.message().into() };
        tracing::debug!(stream = %self.source.describe(), %refusal, "Stream refused");
        if self.source.refused(refusal, out) { End::Final } else { End::Retry(status) }
    }
}

impl RefusalCode {
    fn of(code: Code) -> Option<Self> {
        match code {
            Code::InvalidArgument => Some(Self::InvalidArgument),
            Code::FailedPrecondition => Some(Self::FailedPrecondition),
            Code::NotFound => Some(Self::NotFound),
            Code::Unimplemented => Some(Self::Unimplemented),
            _ => None,
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidArgument => "invalid argument",
            Self::FailedPrecondition => "failed precondition",
            Self::NotFound => "not found",
            Self::Unimplemented => "unimplemented",
        })
    }
}

impl<T> State<T> {
    /// The last good answer.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Pending | Self::Refused(_) => None,
        }
    }
}

/// Waits until the state is not pending any more, for at most `timeout`.
///
/// # Errors
/// When nothing was answered in time.
pub async fn settled<T>(
    receiver: &mut watch::Receiver<State<T>>,
    timeout: Duration,
) -> Result<(), Unanswered> {
    let wait = receiver.wait_for(|state| !matches!(state, State::Pending));
    match tokio::time::timeout(timeout, wait).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Unanswered(timeout)),
    }
}

/// The control plane did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane did not answer within {0:?}")]
pub struct Unanswered(pub Duration);

async fn by<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => timeout_at(deadline, future).await.ok(),
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn deadline() -> Status {
    Status::deadline_exceeded("no message in time")
}
