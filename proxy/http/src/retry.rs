//! # Retries
//!
//! Job: send a request again when its response, or its failure, calls for it, as long as its body can be
//! sent again, there is a place to send it to, and time is left.
//! May touch: request bodies (kept up to a limit), heads, early trailers. Must not touch: where it is sent.
//! Callers: outbound's routes; the loop is theirs, see [`Retries`].

mod peek;

use self::peek::peek;
use crate::{Body, body::Replay, error::Error, headers};
use http::{HeaderMap, Request, Response, header, request};
use mesh_stack::tried::Tried;
use std::time::Duration;
use tokio::time::Instant;

/// When a request is sent again.
pub trait Policy {
    /// Longest body that is kept, bytes.
    fn max_body(&self) -> usize;
    /// What the head of a response calls for.
    fn head(&self, response: &Response<Body>) -> Verdict;
    /// Whether trailers that come early call for a retry.
    fn trailers(&self, trailers: &HeaderMap) -> bool;
    /// Whether a failure calls for a retry.
    fn error(&self, error: &Error) -> bool;
    /// Asks for the n-th retry, from 1: the pause before it.
    ///
    /// # Errors
    /// When there shall be no more.
    fn permit(&self, n: u32, response: Option<&Response<Body>>) -> Result<Duration, Spent>;
    /// Told what happens, for metrics.
    fn note(&self, event: Event);
}

/// What the head of a response calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it goes to the client.
    Keep,
    /// A retry.
    Retry,
    /// A look at trailers, if they come at once or after one frame.
    Trailers,
}

/// There shall be no more retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent;

/// What happens to a request that may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It is sent again.
    Sent,
    /// A retry brought a response that calls for no other.
    Success,
    /// No more retries are permitted.
    LimitExceeded,
    /// There is nowhere to send it to.
    Overflow,
}

/// One request and its attempts:
///
/// ```ignore
/// loop {
///     let result = send(retries.attempt()).await;
///     match retries.next(result, deadline, || is_available()).await {
///         Next::Again => {}
///         Next::Done(result) => return result,
///     }
/// }
/// ```
pub struct Retries<'p, P> {
    policy: &'p P,
    parts: request::Parts,
    replay: Replay,
    /// Where the request has been.
    pub tried: Tried,
    /// Retries so far.
    retries: u32,
}

/// How it goes on.
#[derive(Debug)]
pub enum Next {
    /// With one more attempt.
    Again,
    /// With this, for the client.
    Done(Result<Response<Body>, Error>),
}

impl<'p, P: Policy> Retries<'p, P> {
    /// Prepares a request.
    ///
    /// # Errors
    /// The request itself if it can be sent only once: its body is declared too long, or it is to become a
    /// tunnel.
    pub fn new(policy: &'p P, request: Request<Body>) -> Result<Self, Box<Request<Body>>> {
        let declared =
            || request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let limit = policy.max_body();
        let too_long = declared().is_some_and(|length: u64| length > limit as u64);
        if too_long || headers::wants_upgrade(&request) {
            return Err(Box::new(request));
        }
        let (parts, body) = request.into_parts();
        let replay = Replay::with_limit(body, limit);
        Ok(Self { policy, parts, replay, tried: Tried::default(), retries: 0 })
    }

    /// The request for one attempt.
    pub fn attempt(&self) -> Request<Body> {
        Request::from_parts(self.parts.clone(), self.replay.attempt())
    }

    /// Retries so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// What comes after an attempt. `available` tells whether there is somewhere to send to.
    pub async fn next(
        &mut self,
        result: Result<Response<Body>, Error>,
        deadline: Option<Instant>,
        available: impl Fn() -> bool + Send,
    ) -> Next {
        let result = match self.judge(result).await {
            (result, true) => result,
            (result, false) => {
                if self.retries > 0 && result.is_ok() {
                    self.policy.note(Event::Success);
                }
                return Next::Done(result);
            }
        };
        if !self.replay.is_whole() {
            return Next::Done(result);
        }
        let Ok(pause) = self.policy.permit(self.retries + 1, result.as_ref().ok()) else {
            self.policy.note(Event::LimitExceeded);
            return Next::Done(result);
        };
        let resume = Instant::now() + pause;
        if deadline.is_some_and(|deadline| deadline <= resume) {
            return Next::Done(result);
        }
        if !pause.is_zero() {
            tokio::time::sleep_until(resume).await;
        }
        if !available() {
            self.policy.note(Event::Overflow);
            return Next::Done(result);
        }
        // Its stream ends before the next one begins.
        drop(result);
        self.retries += 1;
        self.policy.note(Event::Sent);
        Next::Again
    }

    /// Whether the outcome of an attempt calls for a retry.
    async fn judge(
        &self,
        result: Result<Response<Body>, Error>,
    ) -> (Result<Response<Body>, Error>, bool) {
        let response = match result {
            Err(error) => {
                let again = self.policy.error(&error);
                return (Err(error), again);
            }
            Ok(response) => response,
        };
        match self.policy.head(&response) {
            Verdict::Keep => (Ok(response), false),
            Verdict::Retry => (Ok(response), true),
            Verdict::Trailers => {
                let (response, trailers) = peek(response).await;
                let again = trailers.is_some_and(|trailers| self.policy.trailers(&trailers));
                (Ok(response), again)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
