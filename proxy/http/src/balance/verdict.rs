//! # What a response says of its endpoint
//!
//! Job: end a request's place in the load at the first data, or as a bad one; tell the breaker how it went.
//! May touch: heads, trailers, the system's date for `retry-after`. Must not touch: data.
//! Callers: the balancer, as an observer of response bodies.

use crate::{
    Body,
    accrual::Ticket,
    body::{End, ObserveBody},
    classify::{self, Classify, Head, Kind},
};
use http::{HeaderMap, Response, StatusCode};
use mesh_model::{balance::Penalty, response::GrpcCodes};
use mesh_stack::ewma::Pending;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How a balancer judges. Without a penalty and breakers, responses are not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    penalty: Option<Penalty>,
    breakers: bool,
}

/// How one request is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judging {
    kind: Option<Kind>,
    penalty: Option<Penalty>,
}

/// One request to one endpoint, until its response ends.
pub(super) struct Verdict {
    judging: Judging,
    pending: Option<Pending>,
    ticket: Option<Ticket>,
    head: Option<Head>,
}

/// UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const BAD: GrpcCodes = GrpcCodes::of(&[2, 4, 8, 13, 14, 15]);

impl Judge {
    pub(super) fn new(penalty: Option<Penalty>, breakers: bool) -> Self {
        Self { penalty, breakers }
    }

    /// For a request with these headers.
    pub(super) fn request(self, headers: &HeaderMap) -> Judging {
        let looks = self.breakers || self.penalty.is_some();
        Judging { kind: looks.then(|| Kind::of(headers)), penalty: self.penalty }
    }
}

impl Verdict {
    pub(super) fn new(judging: Judging, pending: Pending, ticket: Option<Ticket>) -> Self {
        Self { judging, pending: Some(pending), ticket, head: None }
    }

    /// The response's head has come.
    pub(super) fn head(&mut self, response: &Response<Body>) {
        let Some(kind) = self.judging.kind else { return };
        let (status, headers) = (response.status(), response.headers());
        let retry_after = || classify::retry_after(status, headers, SystemTime::now());
        let now = Instant::now();
        if let Some(penalty) = self.judging.penalty
            && is_bad(kind, status, headers)
        {
            let asked = retry_after().unwrap_or_default().min(penalty.max_retry_after);
            self.penalize(asked.max(penalty.delay), now);
        }
        let head = Classify::from(kind).head(response);
        if let Some(ticket) = &mut self.ticket {
            let asked = head.early().filter(|class| class.failure).and_then(|_| retry_after());
            ticket.head(head, asked, now);
        }
        self.head = Some(head);
    }

    /// The endpoint failed after it may have seen the request.
    pub(super) fn failed(&mut self) {
        let now = Instant::now();
        if let Some(penalty) = self.judging.penalty {
            self.penalize(penalty.delay, now);
        }
        if let Some(ticket) = &mut self.ticket {
            ticket.failed(now);
        }
    }

    fn penalize(&mut self, penalty: Duration, now: Instant) {
        if let Some(pending) = self.pending.take() {
            pending.penalize(penalty, now);
        }
    }

    fn complete(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.complete(Instant::now());
        }
    }
}

impl ObserveBody for Verdict {
    fn data(&mut self, _: usize) {
        self.complete();
        if let Some(ticket) = &mut self.ticket {
            ticket.message(Instant::now());
        }
    }

    fn end(&mut self, end: End<'_>) {
        self.complete();
        let (Some(ticket), Some(head)) = (&mut self.ticket, self.head) else { return };
        match end {
            End::Complete(trailers) => {
                ticket.end(head.status(), head.end(trailers), Instant::now());
            }
            End::Failed(_) => ticket.failed(Instant::now()),
            // The client's doing.
            End::Dropped => {}
        }
    }
}

fn is_bad(kind: Kind, status: StatusCode, headers: &HeaderMap) -> bool {
    let code = match kind {
        Kind::Http => None,
        Kind::Grpc => classify::grpc_status(headers),
    };
    status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error()
        || code.is_some_and(|code| BAD.contains(code))
}
