//! # Circuit breakers on the wire
//!
//! Job: `outbound.FailureAccrual` and backoffs, both ways. Callers: the parent file, `rules`.

use crate::{
    Invalid,
    error::{duration, proto_duration},
};
use linkerd2_proxy_api::outbound as api;
use mesh_model::balance::{Accrual, AccrualKind, MILLION, Probation, SuccessRate};
use std::time::Duration;

/// A window below this is refused, as Linkerd does.
const SHORTEST_WINDOW: Duration = Duration::from_millis(10);
/// So is a larger number of requests.
const MOST_REQUESTS: u32 = 1_000_000;

pub(super) fn to_proto(accrual: &Accrual) -> api::FailureAccrual {
    use api::failure_accrual::{ConsecutiveFailures, Kind, Unified};
    let backoff = Some(backoff_to_proto(&accrual.backoff));
    let kind = match accrual.kind {
        AccrualKind::Consecutive => Kind::ConsecutiveFailures(ConsecutiveFailures {
            max_failures: accrual.max_failures,
            backoff,
        }),
        AccrualKind::Unified(rate) => {
            let shown = rate.unwrap_or(SuccessRate { threshold: 0, ..SuccessRate::default() });
            Kind::Unified(Unified {
                success_rate_threshold: f64::from(shown.threshold) / f64::from(MILLION),
                decay: Some(proto_duration(shown.window)),
                min_requests: shown.min_requests,
                max_consecutive_failures: accrual.max_failures,
                backoff,
            })
        }
    };
    let ejection = (accrual.min_ready > 0)
        .then_some(api::EjectionConfig { min_ready_endpoints: accrual.min_ready });
    api::FailureAccrual { kind: Some(kind), ejection }
}

/// `None` for a breaker without a kind: there is none.
pub(super) fn from_proto(accrual: api::FailureAccrual) -> Result<Option<Accrual>, Invalid> {
    use api::failure_accrual::Kind;
    let Some(kind) = accrual.kind else { return Ok(None) };
    let min_ready = accrual.ejection.map_or(0, |e| e.min_ready_endpoints);
    let (kind, max_failures, backoff) = match kind {
        Kind::ConsecutiveFailures(c) => (AccrualKind::Consecutive, c.max_failures, c.backoff),
        Kind::Unified(u) => {
            let rate = rate(u.success_rate_threshold, u.decay, u.min_requests)?;
            (AccrualKind::Unified(rate), u.max_consecutive_failures, u.backoff)
        }
    };
    let backoff = backoff_from_proto(backoff.ok_or(Invalid::Missing("breaker backoff"))?)?;
    Ok(Some(Accrual { kind, max_failures, backoff, min_ready }))
}

fn rate(
    threshold: f64,
    window: Option<prost_types::Duration>,
    min_requests: u32,
) -> Result<Option<SuccessRate>, Invalid> {
    let threshold = millionths("success_rate_threshold", threshold, 1.0)?;
    if threshold == 0 {
        return Ok(None);
    }
    let window = duration("success rate decay", window)?;
    if window < SHORTEST_WINDOW {
        return Err(Invalid::value("success rate decay", "less than 10ms"));
    }
    if min_requests > MOST_REQUESTS {
        return Err(Invalid::value("success rate min_requests", "more than 1000000"));
    }
    Ok(Some(SuccessRate { threshold, window, min_requests }))
}

pub(super) fn backoff_to_proto(backoff: &Probation) -> api::ExponentialBackoff {
    api::ExponentialBackoff {
        min_backoff: Some(proto_duration(backoff.min)),
        max_backoff: Some(proto_duration(backoff.max)),
        // Exact to the millionth, as far as the message's number is.
        jitter_ratio: (f64::from(backoff.jitter) / f64::from(MILLION)) as f32,
        respect_retry_after_hint: backoff.respect_retry_after,
    }
}

pub(super) fn backoff_from_proto(backoff: api::ExponentialBackoff) -> Result<Probation, Invalid> {
    let min = duration("min_backoff", backoff.min_backoff)?;
    let max = duration("max_backoff", backoff.max_backoff)?;
    if min > max || max.is_zero() {
        return Err(Invalid::value("max_backoff", "below min_backoff, or zero"));
    }
    Ok(Probation {
        min,
        max,
        jitter: millionths("jitter_ratio", f64::from(backoff.jitter_ratio), 100.0)?,
        respect_retry_after: backoff.respect_retry_after_hint,
    })
}

fn millionths(field: &'static str, ratio: f64, most: f64) -> Result<u32, Invalid> {
    // Compared so that no number fails as well.
    if !(0.0..=most).contains(&ratio) {
        return Err(Invalid::value(field, format!("{ratio} is not between 0 and {most}")));
    }
    // At most 100 million, so the cast keeps the value.
    Ok((ratio * f64::from(MILLION)).round() as u32)
}
