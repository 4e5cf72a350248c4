//! # How a Service wants to be balanced
//!
//! Job: the `balancer.*linkerd.io` annotations of a Service as values. What cannot be used is logged and
//! leaves the usual behaviour of its part: a typing error never stops traffic.
//! May touch: annotations. Must not touch: other Services. Callers: the outbound index.

use mesh_k8s::annotations as key;
use mesh_model::balance::{
    Accrual, AccrualKind, Algorithm, Balancing, MILLION, Penalty, Probation, SuccessRate,
};
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// What the annotations say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotated {
    pub(super) balancing: Balancing,
    pub(super) accrual: Option<Accrual>,
}

/// An annotation that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}: `{value}` {problem}")]
struct Unusable {
    key: &'static str,
    value: String,
    problem: String,
}

type Annotations = BTreeMap<String, String>;

impl Annotated {
    pub(super) fn parse(annotations: &Annotations, of: impl fmt::Display) -> Self {
        let usual = Balancing::default();
        let logged =
            |error: Unusable| tracing::warn!(service = %of, %error, "Annotation is ignored");
        let algorithm = match annotations.get(key::BALANCER_ALGORITHM) {
            None => usual.algorithm,
            Some(text) => text.parse::<Algorithm>().unwrap_or_else(|error| {
                tracing::warn!(service = %of, %error, "Annotation is ignored");
                usual.algorithm
            }),
        };
        let slow_start = duration(annotations, key::BALANCER_SLOW_START, Duration::ZERO);
        let slow_start = slow_start.map_err(logged).unwrap_or_default().min(LONGEST_SLOW_START);
        let penalty = penalty(annotations).map_err(logged).unwrap_or_default();
        let accrual = accrual(annotations).map_err(logged).unwrap_or_default();
        Self { balancing: Balancing { algorithm, slow_start, penalty, ..usual }, accrual }
    }
}

/// What the wire can carry.
const LONGEST_SLOW_START: Duration = Duration::from_secs(999);

fn penalty(annotations: &Annotations) -> Result<Option<Penalty>, Unusable> {
    if !value(annotations, key::PENALIZE_FAILURES, false)? {
        return Ok(None);
    }
    let usual = Penalty::default();
    let max = duration(annotations, key::LOAD_BIASER_MAX_RETRY_AFTER, usual.max_retry_after)?;
    let delay = duration(annotations, key::LOAD_BIASER_PENALTY, usual.delay)?;
    Ok(Some(Penalty { delay, max_retry_after: max }))
}

fn accrual(annotations: &Annotations) -> Result<Option<Accrual>, Unusable> {
    let Some(kind) = annotations.get(key::FAILURE_ACCRUAL) else { return Ok(None) };
    let unified = match kind.as_str() {
        "consecutive" => false,
        "unified" => true,
        _ => {
            let problem = "is neither `consecutive` nor `unified`";
            return Err(unusable(key::FAILURE_ACCRUAL, kind, problem));
        }
    };
    let usual = Accrual::consecutive();
    let max_failures = value(annotations, key::ACCRUAL_MAX_FAILURES, usual.max_failures)?;
    if max_failures == 0 {
        return Err(unusable(key::ACCRUAL_MAX_FAILURES, "0", "must be above 0"));
    }
    let min = duration(annotations, key::ACCRUAL_MIN_PENALTY, usual.backoff.min)?;
    let max = duration(annotations, key::ACCRUAL_MAX_PENALTY, usual.backoff.max)?;
    if min > max || max.is_zero() {
        let min = format!("{min:?}");
        return Err(unusable(key::ACCRUAL_MIN_PENALTY, &min, "must not be above the maximum"));
    }
    let jitter = ratio(annotations, key::ACCRUAL_JITTER, usual.backoff.jitter, 100.0)?;
    let respect_retry_after = unified && value(annotations, key::ACCRUAL_RETRY_AFTER, false)?;
    let min_ready = value(annotations, key::ACCRUAL_MIN_READY, 0)?;
    let kind = if unified {
        AccrualKind::Unified(success_rate(annotations)?)
    } else {
        AccrualKind::Consecutive
    };
    let backoff = Probation { min, max, jitter, respect_retry_after };
    Ok(Some(Accrual { kind, max_failures, backoff, min_ready }))
}

fn success_rate(annotations: &Annotations) -> Result<Option<SuccessRate>, Unusable> {
    let usual = SuccessRate::default();
    let threshold = ratio(annotations, key::ACCRUAL_THRESHOLD, usual.threshold, 1.0)?;
    if threshold == 0 {
        return Ok(None);
    }
    let window = duration(annotations, key::ACCRUAL_WINDOW, usual.window)?;
    if window < Duration::from_millis(10) {
        let window = format!("{window:?}");
        return Err(unusable(key::ACCRUAL_WINDOW, &window, "must be at least 10ms"));
    }
    let min_requests = value(annotations, key::ACCRUAL_MIN_REQUESTS, usual.min_requests)?;
    if min_requests > MILLION {
        let problem = "must not be above 1000000";
        return Err(unusable(key::ACCRUAL_MIN_REQUESTS, &min_requests.to_string(), problem));
    }
    Ok(Some(SuccessRate { threshold, window, min_requests }))
}

// === values ===

fn unusable(key: &'static str, value: &str, problem: impl fmt::Display) -> Unusable {
    Unusable { key, value: value.to_owned(), problem: problem.to_string() }
}

fn value<T: FromStr>(
    annotations: &Annotations,
    key: &'static str,
    usual: T,
) -> Result<T, Unusable> {
    let Some(text) = annotations.get(key) else { return Ok(usual) };
    let wanted = std::any::type_name::<T>();
    text.trim().parse().map_err(|_| unusable(key, text, format_args!("is no {wanted}")))
}

/// A ratio from 0 to `max`, in millionths.
fn ratio(
    annotations: &Annotations,
    key: &'static str,
    usual: u32,
    max: f64,
) -> Result<u32, Unusable> {
    let found: f64 = value(annotations, key, f64::from(usual) / f64::from(MILLION))?;
    if !(0.0..=max).contains(&found) {
        let problem = format_args!("must lie between 0 and {max}");
        return Err(unusable(key, &found.to_string(), problem));
    }
    Ok((found * f64::from(MILLION)).round() as u32)
}

/// A whole number with ms, s, m, h or d; or 0.
fn duration(
    annotations: &Annotations,
    key: &'static str,
    usual: Duration,
) -> Result<Duration, Unusable> {
    let Some(text) = annotations.get(key) else { return Ok(usual) };
    let parse = || {
        let text = text.trim();
        if text == "0" {
            return Some(Duration::ZERO);
        }
        let at = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(at);
        let number: u64 = number.parse().ok()?;
        let seconds = |n: u64| number.checked_mul(n).map(Duration::from_secs);
        match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => seconds(1),
            "m" => seconds(60),
            "h" => seconds(3600),
            "d" => seconds(86_400),
            _ => None,
        }
    };
    let problem = "is no duration: write a whole number with ms, s, m, h or d";
    parse().ok_or_else(|| unusable(key, text, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&'static str, &str)]) -> Annotated {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Annotated::parse(&annotations, "shop/web")
    }

    const S: Duration = Duration::from_secs(1);

    // proves: POL-12
    #[test]
    fn balancers_are_chosen_by_annotation() {
        assert_eq!(parse(&[]), Annotated::default());
        let found = parse(&[
            (key::BALANCER_ALGORITHM, "round-robin"),
            (key::BALANCER_SLOW_START, "30s"),
            (key::PENALIZE_FAILURES, "true"),
            (key::LOAD_BIASER_PENALTY, "2s"),
        ]);
        let penalty = Penalty { delay: S * 2, ..Penalty::default() };
        let expected = Balancing {
            algorithm: Algorithm::RoundRobin,
            slow_start: S * 30,
            penalty: Some(penalty),
            ..Balancing::default()
        };
        assert_eq!(found, Annotated { balancing: expected, accrual: None });
        let bad = [
            (key::BALANCER_ALGORITHM, "fastest"),
            (key::BALANCER_SLOW_START, "soon"),
            (key::PENALIZE_FAILURES, "yes"),
        ];
        assert_eq!(parse(&bad), Annotated::default());
    }

    // proves: POL-13
    #[test]
    fn breakers_are_set_by_annotation() {
        let of = |pairs: &[(&'static str, &str)]| parse(pairs).accrual;
        let plain = of(&[(key::FAILURE_ACCRUAL, "consecutive")]);
        assert_eq!(plain, Some(Accrual::consecutive()));
        assert_eq!(of(&[(key::ACCRUAL_MAX_FAILURES, "3")]), None, "other keys alone do nothing");
        let full = of(&[
            (key::FAILURE_ACCRUAL, "unified"),
            (key::ACCRUAL_MAX_FAILURES, "3"),
            (key::ACCRUAL_MIN_PENALTY, "500ms"),
            (key::ACCRUAL_MAX_PENALTY, "2m"),
            (key::ACCRUAL_JITTER, "0"),
            (key::ACCRUAL_THRESHOLD, "0.25"),
            (key::ACCRUAL_WINDOW, "1m"),
            (key::ACCRUAL_MIN_REQUESTS, "9"),
            (key::ACCRUAL_RETRY_AFTER, "true"),
            (key::ACCRUAL_MIN_READY, "2"),
        ]);
        let rate = SuccessRate { threshold: 250_000, window: S * 60, min_requests: 9 };
        let backoff = Probation { min: S / 2, max: S * 120, jitter: 0, respect_retry_after: true };
        let kind = AccrualKind::Unified(Some(rate));
        assert_eq!(full, Some(Accrual { kind, max_failures: 3, backoff, min_ready: 2 }));
        let off = of(&[(key::FAILURE_ACCRUAL, "unified"), (key::ACCRUAL_THRESHOLD, "0")]);
        assert_eq!(off.map(|a| a.kind), Some(AccrualKind::Unified(None)));
        for bad in [
            (key::ACCRUAL_MAX_FAILURES, "0"),
            (key::ACCRUAL_MIN_PENALTY, "61s"),
            (key::ACCRUAL_JITTER, "-1"),
            (key::ACCRUAL_THRESHOLD, "1.5"),
            (key::ACCRUAL_WINDOW, "9ms"),
            (key::ACCRUAL_WINDOW, "1.5s"),
            (key::ACCRUAL_MIN_REQUESTS, "1000001"),
        ] {
            assert_eq!(of(&[(key::FAILURE_ACCRUAL, "unified"), bad]), None, "{bad:?}");
        }
    }
}
