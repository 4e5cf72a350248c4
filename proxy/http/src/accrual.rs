//! # Circuit breaker
//!
//! Job: stop sending to an endpoint that fails, and find out with one request at a time whether it is well
//! again. One per endpoint; those of a balancer share a circuit, which keeps a minimum of them unbroken.
//! May touch: outcomes, an instant given by the caller. Must not touch: requests, timers: a broken endpoint
//! says when it is worth a look, and whoever waits looks then. So there is no task to leak or to stall.
//! Callers: the balancer.

mod state;

pub(crate) use self::state::Outcome;

use self::state::{Effect, Input, State};
use crate::classify::{Class, Head};
use http::StatusCode;
use mesh_model::{
    balance::{Accrual, AccrualKind},
    response::GrpcCodes,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// What the breakers of one balancer share.
pub(crate) struct Circuit {
    rules: Accrual,
    members: AtomicUsize,
    broken: AtomicUsize,
    /// Told when an endpoint breaks or is well again.
    changed: Arc<Notify>,
}

/// The breaker of one endpoint.
pub(crate) struct Breaker {
    circuit: Arc<Circuit>,
    state: Mutex<State>,
    /// Whether the state is any but closed, to be read without the lock.
    broken: AtomicBool,
}

/// A request that the breaker let through. Dropped without an outcome, it says nothing.
pub(crate) struct Ticket {
    breaker: Arc<Breaker>,
    probe: bool,
    spent: bool,
}

/// gRPC RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u16 = 8;
/// gRPC PERMISSION_DENIED: the answer of a server that is well.
const PERMISSION_DENIED: u16 = 7;

impl Circuit {
    pub(crate) fn new(rules: Accrual, changed: Arc<Notify>) -> Arc<Self> {
        let (members, broken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { rules, members, broken, changed })
    }

    pub(crate) fn breaker(self: &Arc<Self>) -> Arc<Breaker> {
        self.members.fetch_add(1, Relaxed);
        Arc::new(Breaker {
            circuit: self.clone(),
            state: Mutex::new(State::new(&self.rules)),
            broken: AtomicBool::new(false),
        })
    }

    /// Whether one more may break.
    fn spares(&self) -> bool {
        let unbroken = self.members.load(Relaxed).saturating_sub(self.broken.load(Relaxed));
        unbroken > self.rules.min_ready as usize
    }
}

impl Breaker {
    /// Whether a request may be sent.
    pub(crate) fn takes(&self, now: Instant) -> bool {
        !self.broken.load(Relaxed) || self.state.lock().takes(now)
    }

    /// When a broken endpoint is worth a look.
    pub(crate) fn resumes(&self) -> Option<Instant> {
        if !self.broken.load(Relaxed) {
            return None;
        }
        self.state.lock().resumes()
    }

    /// Lets a request through; `None` if another was quicker to be the probe.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant) -> Option<Ticket> {
        let probe = self.broken.load(Relaxed);
        if probe && self.advance(Input::Admit, now) != Effect::Admitted {
            return None;
        }
        Some(Ticket { breaker: self.clone(), probe, spent: false })
    }

    /// What a response means to this breaker.
    fn outcome(&self, status: StatusCode, class: Class) -> Outcome {
        let limited = status == StatusCode::TOO_MANY_REQUESTS
            || class.grpc_status == Some(RESOURCE_EXHAUSTED);
        let code = class.grpc_status.unwrap_or_default();
        let failed = status.is_server_error()
            || GrpcCodes::FAILURES.without(PERMISSION_DENIED).contains(code) && class.failure;
        match self.circuit.rules.kind {
            AccrualKind::Unified(_) if limited => Outcome::Limited,
            _ if failed => Outcome::Failure,
            AccrualKind::Consecutive | AccrualKind::Unified(_) => Outcome::Success,
        }
    }

    fn advance(&self, input: Input, now: Instant) -> Effect {
        let circuit = &self.circuit;
        let mut state = self.state.lock();
        let effect = state.advance(input, now, &circuit.rules, || circuit.spares());
        match effect {
            Effect::None | Effect::Admitted => return effect,
            Effect::Tripped => {
                self.broken.store(true, Relaxed);
                circuit.broken.fetch_add(1, Relaxed);
            }
            Effect::Restored => {
                self.broken.store(false, Relaxed);
                circuit.broken.fetch_sub(1, Relaxed);
            }
            Effect::Postponed => {}
        }
        drop(state);
        circuit.changed.notify_waiters();
        effect
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.circuit.members.fetch_sub(1, Relaxed);
        if *self.broken.get_mut() {
            self.circuit.broken.fetch_sub(1, Relaxed);
        }
    }
}

impl Ticket {
    /// The response's head has come. Its judgement may be final; a probe of which more is to come has proved
    /// enough by the first message of its body ([`Self::message`]).
    pub(crate) fn head(&mut self, head: Head, retry_after: Option<Duration>, now: Instant) {
        if let Some(class) = head.early() {
            self.settle(self.breaker.outcome(head.status(), class), retry_after, now);
        }
    }

    /// A first message has come. A stream may last for days: a probe does not wait for its end.
    pub(crate) fn message(&mut self, now: Instant) {
        if self.probe {
            self.settle(Outcome::Success, None, now);
        }
    }

    /// The response is over.
    pub(crate) fn end(&mut self, status: StatusCode, class: Class, now: Instant) {
        self.settle(self.breaker.outcome(status, class), None, now);
    }

    /// The endpoint has failed: no response, or half of one.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.settle(Outcome::Failure, None, now);
    }

    fn settle(&mut self, outcome: Outcome, retry_after: Option<Duration>, now: Instant) {
        if !std::mem::replace(&mut self.spent, true) {
            let probe = self.probe;
            self.breaker.advance(Input::Outcome { outcome, probe, retry_after }, now);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A client that went away has proved nothing: the next may try.
        if self.probe && !self.spent {
            self.breaker.advance(Input::Abandoned, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::balance::{Probation, SuccessRate};

    const S: Duration = Duration::from_secs(1);

    fn circuit(max_failures: u32, min_ready: u32) -> Arc<Circuit> {
        let backoff = Probation { jitter: 0, ..Probation::default() };
        let rules = Accrual { max_failures, min_ready, backoff, ..Accrual::consecutive() };
        Circuit::new(rules, Arc::default())
    }

    fn fail(breaker: &Arc<Breaker>, now: Instant) {
        breaker.admit(now).unwrap().failed(now);
    }

    // proves: BRK-2
    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_a_client_that_goes_away_proves_nothing() {
        let (circuit, start) = (circuit(2, 0), Instant::now());
        let breaker = circuit.breaker();
        fail(&breaker, start);
        assert!(breaker.takes(start));
        fail(&breaker, start);
        assert!(!breaker.takes(start) && breaker.admit(start).is_none());
        assert_eq!(breaker.resumes(), Some(start + S));
        let probe = breaker.admit(start + S).unwrap();
        assert!(!breaker.takes(start + S * 2) && breaker.admit(start + S * 2).is_none());
        drop(probe);
        assert!(breaker.takes(start + S * 2), "the next may try");
        let class = Class { failure: false, grpc_status: None };
        breaker.admit(start + S * 2).unwrap().end(StatusCode::OK, class, start + S * 3);
        assert!(breaker.takes(start + S * 3) && breaker.resumes().is_none());
    }

    // proves: BRK-5
    #[tokio::test(start_paused = true)]
    async fn a_floor_of_endpoints_never_breaks() {
        let (circuit, now) = (circuit(1, 1), Instant::now());
        let breakers: Vec<_> = (0..3).map(|_| circuit.breaker()).collect();
        breakers.iter().for_each(|b| fail(b, now));
        assert_eq!(breakers.iter().filter(|b| b.takes(now)).count(), 1);
        drop(breakers);
        assert_eq!((circuit.members.load(Relaxed), circuit.broken.load(Relaxed)), (0, 0));
    }

    // proves: BRK-4
    #[tokio::test(start_paused = true)]
    async fn what_counts_as_a_failure() {
        let consecutive = circuit(1, 0).breaker();
        let rules = Accrual {
            kind: AccrualKind::Unified(Some(SuccessRate::default())),
            ..Accrual::consecutive()
        };
        let unified = Circuit::new(rules, Arc::default()).breaker();
        let http = |status| (StatusCode::from_u16(status).unwrap(), None);
        let grpc = |code| (StatusCode::OK, Some(code));
        use Outcome::{Failure, Limited, Success};
        for ((status, grpc_status), expected) in [
            (http(200), [Success; 2]),
            (http(404), [Success; 2]),
            (http(429), [Success, Limited]),
            (http(500), [Failure; 2]),
            (http(503), [Failure; 2]),
            (grpc(0), [Success; 2]),
            (grpc(2), [Failure; 2]),
            (grpc(4), [Failure; 2]),
            (grpc(7), [Success; 2]),
            (grpc(8), [Success, Limited]),
            (grpc(13), [Failure; 2]),
            (grpc(14), [Failure; 2]),
            (grpc(15), [Failure; 2]),
        ] {
            let failure = grpc_status.is_some_and(|c| GrpcCodes::FAILURES.contains(c))
                || status.is_server_error();
            let class = Class { failure, grpc_status };
            let found = [&consecutive, &unified].map(|b| b.outcome(status, class));
            assert_eq!(found, expected, "{status} {grpc_status:?}");
        }
        // A response without a status is no failure, though its code is called UNKNOWN.
        let class = Class { failure: false, grpc_status: Some(2) };
        assert_eq!(unified.outcome(StatusCode::OK, class), Success);
    }

    // proves: BRK-3
    #[tokio::test(start_paused = true)]
    async fn a_streaming_probe_is_judged_by_its_first_message() {
        let (circuit, start) = (circuit(1, 0), Instant::now());
        let breaker = circuit.breaker();
        fail(&breaker, start);
        let mut probe = breaker.admit(start + S).unwrap();
        let head = crate::classify::Classify::from(crate::classify::Kind::Grpc);
        let head = head.head(&http::Response::new(()));
        probe.head(head, None, start + S);
        assert!(!breaker.takes(start + S), "a head proves nothing yet");
        probe.message(start + S);
        assert!(breaker.takes(start + S));
    }
}
