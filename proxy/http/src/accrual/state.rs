//! # States of a breaker
//!
//! Job: closed, open until a time, or waiting for a probe: advanced by one function.
//! May touch: values. Must not touch: clocks, locks, requests. Callers: the breaker.

use mesh_model::balance::{Accrual, AccrualKind, MILLION, SuccessRate};
use mesh_stack::backoff::{Attempts, Backoff};
use std::time::Duration;
use tokio::time::Instant;

/// Where an endpoint stands.
#[derive(Debug)]
pub(super) enum State {
    /// Requests are sent.
    Closed { failures: u32, rate: Option<Box<Rate>> },
    /// None is sent before this time; then one.
    Open { until: Instant, attempts: Attempts },
    /// One is under way, and decides.
    Probing { attempts: Attempts },
}

/// What happens to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// A request wants to be the probe.
    Admit,
    /// A response: of the probe, or of a request sent while closed.
    Outcome { outcome: Outcome, probe: bool, retry_after: Option<Duration> },
    /// The probe ended without a judgement.
    Abandoned,
}

/// What a response says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// Too many requests: not well, though not a failure of its own.
    Limited,
    Failure,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The request is the probe.
    Admitted,
    /// Closed became open.
    Tripped,
    /// It stays open for longer, or is worth a look again.
    Postponed,
    /// It is closed again.
    Restored,
}

impl State {
    pub(super) fn new(rules: &Accrual) -> Self {
        Self::Closed { failures: 0, rate: Rate::of(rules) }
    }

    pub(super) fn takes(&self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until, .. } => *until <= now,
            Self::Probing { .. } => false,
        }
    }

    pub(super) fn resumes(&self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } => Some(*until),
            Self::Closed { .. } | Self::Probing { .. } => None,
        }
    }

    /// `spares` tells whether the balancer can do without this endpoint.
    pub(super) fn advance(
        &mut self,
        input: Input,
        now: Instant,
        rules: &Accrual,
        spares: impl FnOnce() -> bool,
    ) -> Effect {
        let (next, effect) = match (&mut *self, input) {
            (Self::Closed { failures, rate }, Input::Outcome { outcome, retry_after, .. }) => {
                if !note(failures, rate.as_deref_mut(), outcome, now, rules) || !spares() {
                    return Effect::None;
                }
                (open(attempts(rules), retry_after, now, rules), Effect::Tripped)
            }
            (Self::Open { until, attempts }, Input::Admit) if *until <= now => {
                (Self::Probing { attempts: *attempts }, Effect::Admitted)
            }
            (Self::Probing { attempts }, Input::Outcome { outcome, probe: true, retry_after }) => {
                match outcome {
                    Outcome::Success => (Self::new(rules), Effect::Restored),
                    Outcome::Failure | Outcome::Limited => {
                        (open(*attempts, retry_after, now, rules), Effect::Postponed)
                    }
                }
            }
            (Self::Probing { attempts }, Input::Abandoned) => {
                (Self::Open { until: now, attempts: *attempts }, Effect::Postponed)
            }
            // Late responses to what was sent before it broke say nothing new.
            (Self::Open { .. } | Self::Probing { .. }, Input::Outcome { .. })
            | (Self::Open { .. } | Self::Probing { .. } | Self::Closed { .. }, Input::Admit)
            | (Self::Open { .. } | Self::Closed { .. }, Input::Abandoned) => {
                return Effect::None;
            }
        };
        *self = next;
        effect
    }
}

/// Counts an outcome; whether the endpoint is to break.
fn note(
    failures: &mut u32,
    rate: Option<&mut Rate>,
    outcome: Outcome,
    now: Instant,
    rules: &Accrual,
) -> bool {
    match outcome {
        Outcome::Success => *failures = 0,
        Outcome::Failure => *failures = failures.saturating_add(1),
        Outcome::Limited => {}
    }
    let low = rate.is_some_and(|rate| rate.note(outcome == Outcome::Success, now));
    let many = rules.max_failures > 0 && *failures >= rules.max_failures;
    outcome != Outcome::Success && (low || many)
}

fn attempts(rules: &Accrual) -> Attempts {
    let backoff = rules.backoff;
    let jitter = f64::from(backoff.jitter) / f64::from(MILLION);
    // The message's numbers are checked where it comes in; beyond their bounds the usual shape serves.
    Backoff::new(backoff.min, backoff.max, jitter).unwrap_or(Backoff::OUTBOUND).attempts()
}

fn open(
    mut attempts: Attempts,
    retry_after: Option<Duration>,
    now: Instant,
    rules: &Accrual,
) -> State {
    let usual = attempts.next_delay();
    let asked = retry_after.filter(|_| rules.backoff.respect_retry_after);
    let delay = asked.map_or(usual, |d| d.clamp(rules.backoff.min, rules.backoff.max));
    State::Open { until: now + delay, attempts }
}

/// Successes over a sliding window.
#[derive(Debug)]
pub(super) struct Rate {
    rule: SuccessRate,
    start: Option<Instant>,
    /// Number of the newest bucket since the start.
    at: u64,
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    good: u32,
    all: u32,
}

const BUCKETS: usize = 10;

impl Rate {
    fn of(rules: &Accrual) -> Option<Box<Self>> {
        match rules.kind {
            AccrualKind::Unified(Some(rule)) => {
                let buckets = [Bucket::default(); BUCKETS];
                Some(Box::new(Self { rule, start: None, at: 0, buckets }))
            }
            AccrualKind::Consecutive | AccrualKind::Unified(None) => None,
        }
    }

    /// Counts an outcome; whether the rate is too low.
    fn note(&mut self, good: bool, now: Instant) -> bool {
        self.turn(now);
        let bucket = &mut self.buckets[self.at as usize % BUCKETS];
        bucket.all = bucket.all.saturating_add(1);
        bucket.good = bucket.good.saturating_add(good.into());
        let sum = |of: fn(&Bucket) -> u32| self.buckets.iter().map(|b| u64::from(of(b))).sum();
        let (good, all): (u64, u64) = (sum(|b| b.good), sum(|b| b.all));
        all >= u64::from(self.rule.min_requests)
            && good * u64::from(MILLION) < all * u64::from(self.rule.threshold)
    }

    /// Forgets what lies before the window.
    fn turn(&mut self, now: Instant) {
        let start = *self.start.get_or_insert(now);
        let width = (self.rule.window / BUCKETS as u32).max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(start).as_nanos() / width.as_nanos();
        let at = u64::try_from(passed).unwrap_or(u64::MAX).max(self.at);
        for stale in 1..=(at - self.at).min(BUCKETS as u64) {
            self.buckets[(self.at + stale) as usize % BUCKETS] = Bucket::default();
        }
        if at - self.at > BUCKETS as u64 {
            self.buckets = Default::default();
        }
        self.at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::balance::Probation;

    const S: Duration = Duration::from_secs(1);

    fn rules() -> Accrual {
        let backoff = Probation { jitter: 0, ..Probation::default() };
        Accrual { max_failures: 3, backoff, ..Accrual::consecutive() }
    }

    fn outcome(outcome: Outcome, probe: bool) -> Input {
        Input::Outcome { outcome, probe, retry_after: None }
    }

    /// Name, and the time until which it is open, in seconds after `start`.
    fn describe(state: &State, start: Instant) -> String {
        match state {
            State::Closed { failures, .. } => format!("closed {failures}"),
            State::Open { until, .. } => format!("open {}", (*until - start).as_secs()),
            State::Probing { .. } => "probing".into(),
        }
    }

    // proves: BRK-1 BRK-2
    #[tokio::test(start_paused = true)]
    async fn every_state_with_every_input() {
        use Outcome::{Failure, Limited, Success};
        let (start, rules) = (Instant::now(), rules());
        let closed = |failures| State::Closed { failures, rate: None };
        let open = |s| State::Open { until: start + S * s, attempts: attempts(&rules) };
        let probing = || {
            // It has waited one second once.
            let mut attempts = attempts(&rules);
            attempts.next_delay();
            State::Probing { attempts }
        };
        let now = start + S * 10;
        let table: Vec<(State, Input, &str, Effect)> = vec![
            (closed(0), outcome(Success, false), "closed 0", Effect::None),
            (closed(2), outcome(Success, false), "closed 0", Effect::None),
            (closed(1), outcome(Failure, false), "closed 2", Effect::None),
            (closed(2), outcome(Limited, false), "closed 2", Effect::None),
            (closed(2), outcome(Failure, false), "open 11", Effect::Tripped),
            (closed(2), Input::Admit, "closed 2", Effect::None),
            (closed(2), Input::Abandoned, "closed 2", Effect::None),
            (open(11), outcome(Success, false), "open 11", Effect::None),
            (open(11), outcome(Failure, false), "open 11", Effect::None),
            (open(11), outcome(Limited, false), "open 11", Effect::None),
            (open(11), Input::Admit, "open 11", Effect::None),
            (open(10), Input::Admit, "probing", Effect::Admitted),
            (open(11), Input::Abandoned, "open 11", Effect::None),
            (probing(), outcome(Success, false), "probing", Effect::None),
            (probing(), outcome(Failure, false), "probing", Effect::None),
            (probing(), outcome(Limited, false), "probing", Effect::None),
            (probing(), outcome(Success, true), "closed 0", Effect::Restored),
            (probing(), outcome(Failure, true), "open 12", Effect::Postponed),
            (probing(), outcome(Limited, true), "open 12", Effect::Postponed),
            (probing(), Input::Admit, "probing", Effect::None),
            (probing(), Input::Abandoned, "open 10", Effect::Postponed),
        ];
        for (mut state, input, expected, effect) in table {
            let before = describe(&state, start);
            let found = state.advance(input, now, &rules, || true);
            let after = describe(&state, start);
            assert_eq!((after.as_str(), found), (expected, effect), "{before} on {input:?}");
        }
        let mut kept = closed(2);
        assert_eq!(kept.advance(outcome(Failure, false), now, &rules, || false), Effect::None);
        assert_eq!(describe(&kept, start), "closed 3", "it cannot be spared");
    }

    // proves: BRK-1
    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_longest_and_start_over_when_restored() {
        let (start, mut rules) = (Instant::now(), rules());
        rules.backoff.max = S * 3;
        rules.max_failures = 1;
        let mut state = State::new(&rules);
        let (mut now, mut waits) = (start, Vec::new());
        for round in 0..6 {
            state.advance(outcome(Outcome::Failure, round > 0), now, &rules, || true);
            let until = state.resumes().unwrap();
            waits.push((until - now).as_secs());
            now = until;
            assert_eq!(state.advance(Input::Admit, now, &rules, || true), Effect::Admitted);
        }
        assert_eq!(waits, [1, 2, 3, 3, 3, 3]);
        state.advance(outcome(Outcome::Success, true), now, &rules, || true);
        state.advance(outcome(Outcome::Failure, false), now, &rules, || true);
        assert_eq!(state.resumes(), Some(now + S));
    }

    // proves: BRK-6
    #[tokio::test(start_paused = true)]
    async fn the_server_may_say_how_long() {
        let now = Instant::now();
        let asked = |respect_retry_after, seconds| {
            let mut rules = Accrual { max_failures: 1, ..rules() };
            rules.backoff.respect_retry_after = respect_retry_after;
            let retry_after = Some(S * seconds);
            let mut state = State::new(&rules);
            let outcome = Input::Outcome { outcome: Outcome::Failure, probe: false, retry_after };
            state.advance(outcome, now, &rules, || true);
            (state.resumes().unwrap() - now).as_secs()
        };
        assert_eq!([asked(true, 7), asked(true, 0), asked(true, 600)], [7, 1, 60]);
        assert_eq!(asked(false, 7), 1);
    }

    // proves: BRK-4
    #[tokio::test(start_paused = true)]
    async fn a_low_rate_trips_within_its_window() {
        let rate = SuccessRate { threshold: 500_000, window: S * 10, min_requests: 4 };
        let unified = AccrualKind::Unified(Some(rate));
        let rules = Accrual { kind: unified, max_failures: 0, ..rules() };
        let start = Instant::now();
        let run = |outcomes: &[(u32, Outcome)]| {
            let mut state = State::new(&rules);
            for (at, one) in outcomes {
                state.advance(outcome(*one, false), start + S * *at, &rules, || true);
            }
            matches!(state, State::Open { .. })
        };
        use Outcome::{Failure, Limited, Success};
        assert!(!run(&[(0, Failure), (0, Failure), (0, Failure)]), "too few");
        assert!(run(&[(0, Failure), (1, Limited), (2, Success), (3, Failure)]));
        assert!(!run(&[(0, Success), (1, Success), (2, Failure), (3, Failure)]), "not below");
        assert!(!run(&[(0, Failure), (0, Failure), (0, Failure), (11, Failure)]), "forgotten");
        assert!(!run(&[(0, Failure), (0, Failure), (0, Failure), (500, Failure)]), "long ago");
    }
}
