//! # Parts of outbound rules on the wire
//!
//! Job: timeouts, retries and delays, which HTTP and gRPC rules share. Callers: `kinds`.

use super::accrual;
use crate::{
    Invalid,
    error::{duration, proto_duration},
};
use http::{HeaderName, HeaderValue};
use linkerd2_proxy_api::{http_route, outbound as api};
use mesh_model::{
    balance::Probation,
    filter::{HeaderModifier, Ratio},
    outbound::{Delay, Retry, RetryBackoff, Timeouts},
};
use std::{num::NonZeroU32, time::Duration};

/// A request header that a rule of ours sets where it means a delay: Linkerd's API has no message for one.
/// `250ms 1/10`: that long, for one in ten. A proxy of Linkerd sets the header, and does no harm.
const DELAY: HeaderName = HeaderName::from_static("l5d-fault-delay");

// === timeouts ===

pub(super) fn timeouts_to_proto(t: &Timeouts) -> Option<http_route::Timeouts> {
    (!t.is_none()).then(|| http_route::Timeouts {
        request: t.request.map(proto_duration),
        response: t.response.map(proto_duration),
        idle: t.idle.map(proto_duration),
    })
}

/// The older field counts only where the newer one says nothing of the request. Zero is no limit.
pub(super) fn timeouts_from_proto(
    timeouts: Option<http_route::Timeouts>,
    older: Option<prost_types::Duration>,
) -> Result<Timeouts, Invalid> {
    let timeouts = timeouts.unwrap_or_default();
    Ok(Timeouts {
        request: limit("request timeout", timeouts.request.or(older))?,
        response: limit("response timeout", timeouts.response)?,
        idle: limit("idle timeout", timeouts.idle)?,
    })
}

pub(super) fn limit(
    field: &'static str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Invalid> {
    let limit = value.map(|value| duration(field, Some(value))).transpose()?;
    Ok(limit.filter(|limit| !limit.is_zero()))
}

// === retries ===

/// What the two messages of retries share.
pub(super) struct RetryFields {
    pub(super) max_retries: u32,
    pub(super) max_request_bytes: u32,
    pub(super) timeout: Option<prost_types::Duration>,
    pub(super) backoff: Option<api::ExponentialBackoff>,
}

impl RetryFields {
    pub(super) fn of(retry: &Retry) -> Self {
        let backoff = retry.backoff.as_ref().map(|b| {
            let RetryBackoff { min, max, jitter, respect_retry_after } = *b;
            accrual::backoff_to_proto(&Probation { min, max, jitter, respect_retry_after })
        });
        Self {
            max_retries: retry.max,
            max_request_bytes: u32::try_from(retry.max_body).unwrap_or(u32::MAX),
            timeout: retry.timeout.map(proto_duration),
            backoff,
        }
    }

    /// Retries to which the caller adds what calls for them.
    pub(super) fn retry(self) -> Result<Retry, Invalid> {
        let backoff = self.backoff.map(|backoff| {
            let Probation { min, max, jitter, respect_retry_after } =
                accrual::backoff_from_proto(backoff)?;
            Ok(RetryBackoff { min, max, jitter, respect_retry_after })
        });
        Ok(Retry {
            max: self.max_retries,
            max_body: match self.max_request_bytes {
                0 => Retry::MAX_BODY,
                bytes => bytes as usize,
            },
            timeout: limit("retry timeout", self.timeout)?,
            backoff: backoff.transpose()?,
            ..Retry::default()
        })
    }
}

// === delays ===

pub(super) fn delay_to_header(delay: &Delay) -> HeaderModifier {
    let Delay { time, ratio: Ratio { numerator, denominator } } = delay;
    let text = format!("{}ms {numerator}/{denominator}", time.as_millis());
    let value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0ms 0/1"));
    HeaderModifier { set: vec![(DELAY, value)], ..HeaderModifier::default() }
}

/// `None` if the modifier means what it says.
pub(super) fn delay_from_header(modifier: &HeaderModifier) -> Result<Option<Delay>, Invalid> {
    let [(name, value)] = &modifier.set[..] else { return Ok(None) };
    if *name != DELAY || !modifier.add.is_empty() || !modifier.remove.is_empty() {
        return Ok(None);
    }
    let parsed = || {
        let (time, share) = value.to_str().ok()?.split_once(' ')?;
        let (numerator, denominator) = share.split_once('/')?;
        let ratio = Ratio {
            numerator: numerator.parse().ok()?,
            denominator: NonZeroU32::new(denominator.parse().ok()?)?,
        };
        let time = Duration::from_millis(time.strip_suffix("ms")?.parse().ok()?);
        Some(Delay { time, ratio })
    };
    parsed().map(Some).ok_or(Invalid::Value {
        field: "l5d-fault-delay",
        reason: "expected a delay and a share, as in `250ms 1/10`".into(),
    })
}
