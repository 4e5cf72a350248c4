//! # Limits that an application asks for
//!
//! Job: read the `l5d-*` headers by which an application changes timeouts and retries of one request.
//! May touch: header values. Must not touch: whether they are allowed (the rule says). Callers: outbound.
//!
//! What cannot be read is as if it were not there: a typing error in a header is no reason to fail.

use super::{Retry, Timeouts};
use crate::response::{GrpcCodes, StatusRanges};
use http::{HeaderMap, HeaderName};
use std::{ops::RangeInclusive, time::Duration};

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    statuses: Option<StatusRanges>,
    codes: Option<GrpcCodes>,
    limit: Option<u32>,
    try_timeout: Option<Duration>,
    request: Option<Duration>,
    response: Option<Duration>,
}

/// Names of the headers.
pub mod header {
    use http::HeaderName;

    /// Statuses that call for a retry: `5xx`, `gateway-error`, `NNN`, `NNN-NNN`.
    pub const RETRY_HTTP: HeaderName = HeaderName::from_static("l5d-retry-http");
    /// gRPC codes that call for a retry, by name.
    pub const RETRY_GRPC: HeaderName = HeaderName::from_static("l5d-retry-grpc");
    /// Most retries.
    pub const RETRY_LIMIT: HeaderName = HeaderName::from_static("l5d-retry-limit");
    /// Wait of one attempt for the head of its response.
    pub const RETRY_TIMEOUT: HeaderName = HeaderName::from_static("l5d-retry-timeout");
    /// Time of the whole request.
    pub const TIMEOUT: HeaderName = HeaderName::from_static("l5d-timeout");
    /// The same; wins over the other.
    pub const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("l5d-request-timeout");
    /// Time of the response.
    pub const RESPONSE_TIMEOUT: HeaderName = HeaderName::from_static("l5d-response-timeout");
}

impl Overrides {
    /// Takes the headers out of a request; `None` if there are none, the usual case.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let mut any = false;
        let mut text = |name: HeaderName| {
            let value = headers.remove(name)?;
            any = true;
            value.to_str().ok().map(str::to_owned)
        };
        let overrides = Self {
            statuses: text(header::RETRY_HTTP).and_then(|t| statuses(&t)),
            codes: text(header::RETRY_GRPC).and_then(|t| codes(&t)),
            limit: text(header::RETRY_LIMIT).and_then(|t| t.trim().parse().ok()),
            try_timeout: text(header::RETRY_TIMEOUT).and_then(|t| duration(&t)),
            request: {
                let plain = text(header::TIMEOUT).and_then(|t| duration(&t));
                text(header::REQUEST_TIMEOUT).and_then(|t| duration(&t)).or(plain)
            },
            response: text(header::RESPONSE_TIMEOUT).and_then(|t| duration(&t)),
        };
        any.then_some(overrides)
    }

    /// The timeouts of a rule with those that are asked for in their place.
    pub fn timeouts(&self, rule: &Timeouts) -> Timeouts {
        Timeouts {
            request: self.request.or(rule.request),
            response: self.response.or(rule.response),
            idle: rule.idle,
        }
    }

    /// The retries of a rule, changed field by field. Headers can also ask for retries where the rule
    /// has none.
    pub fn retry(&self, rule: Option<&Retry>) -> Option<Retry> {
        let asks = self.statuses.is_some()
            || self.codes.is_some()
            || self.limit.is_some()
            || self.try_timeout.is_some();
        if !asks {
            return rule.cloned();
        }
        let mut retry = rule.cloned().unwrap_or_default();
        if let Some(statuses) = &self.statuses {
            retry.statuses = statuses.clone();
        }
        retry.codes = self.codes.unwrap_or(retry.codes);
        retry.max = self.limit.unwrap_or(retry.max);
        retry.timeout = self.try_timeout.or(retry.timeout);
        Some(retry)
    }
}

fn statuses(text: &str) -> Option<StatusRanges> {
    let ranges: StatusRanges = text.split(',').filter_map(|t| range(t.trim())).collect();
    (!ranges.is_empty()).then_some(ranges)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |t: &str| t.trim().parse().ok().filter(|c| (100..600).contains(c));
    match text.to_ascii_lowercase().as_str() {
        "5xx" => Some(500..=599),
        "gateway-error" => Some(502..=504),
        other => match other.split_once('-') {
            None => code(other).map(|c| c..=c),
            Some((from, to)) => {
                let (from, to) = (code(from)?, code(to)?);
                (from <= to).then_some(from..=to)
            }
        },
    }
}

fn codes(text: &str) -> Option<GrpcCodes> {
    let codes: GrpcCodes = text.split(',').filter_map(|t| code(t.trim())).collect();
    (!codes.is_empty()).then_some(codes)
}

/// The codes that may be asked for: those after which a second attempt can help.
fn code(name: &str) -> Option<u16> {
    const NAMES: [(&str, u16); 5] = [
        ("cancelled", 1),
        ("deadline-exceeded", 4),
        ("resource-exhausted", 8),
        ("internal", 13),
        ("unavailable", 14),
    ];
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, code)| *code)
}

/// A whole number with `ms`, `s`, `m`, `h` or `d`; or 0, which is no limit.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "" if number == 0 => 0,
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let total = Duration::from_millis(number.checked_mul(ms)?);
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pairs: &[(&'static str, &str)]) -> (Option<Overrides>, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a header value"));
        }
        (Overrides::take(&mut headers), headers)
    }

    // proves: RETRY-5
    #[test]
    fn headers_change_a_rule_field_by_field() {
        let rule = Retry { max: 3, timeout: Some(Duration::from_secs(9)), ..Retry::default() };
        let (asked, left) = take(&[
            ("l5d-retry-http", "5xx, 429,600,x"),
            ("l5d-retry-grpc", "Unavailable,ok, internal"),
            ("l5d-timeout", "9s"),
            ("l5d-request-timeout", "250ms"),
            ("x-other", "1"),
        ]);
        assert_eq!(left.len(), 1, "they go no further");
        let asked = asked.expect("there are some");
        let retry = asked.retry(Some(&rule)).expect("retries");
        assert_eq!((retry.max, retry.timeout), (3, rule.timeout), "the rule's");
        assert!(retry.statuses.contains(429) && retry.statuses.contains(503));
        assert!(!retry.statuses.contains(200));
        assert_eq!(retry.codes, GrpcCodes::of(&[14, 13]));
        let rule = Timeouts { idle: Some(Duration::from_secs(1)), response: None, request: None };
        let request = Some(Duration::from_millis(250));
        assert_eq!(asked.timeouts(&rule), Timeouts { request, ..rule });
    }

    // proves: RETRY-5
    #[test]
    fn what_cannot_be_read_is_as_if_it_were_absent() {
        assert_eq!(take(&[("x", "y")]).0, None);
        let (asked, _) = take(&[("l5d-timeout", "5"), ("l5d-retry-http", "9xx,504-502")]);
        let asked = asked.expect("headers are there");
        assert_eq!(asked.timeouts(&Timeouts::default()), Timeouts::default());
        assert_eq!(asked.retry(None), None);
        let (asked, _) = take(&[("l5d-retry-limit", "2")]);
        let retry = asked.and_then(|a| a.retry(None)).expect("asked for by the limit alone");
        assert_eq!((retry.max, retry.max_body), (2, 65_536));
        for (text, expected) in
            [("0", None), ("0s", None), ("3m", Some(180)), ("1.5s", None), ("2d", Some(172_800))]
        {
            assert_eq!(duration(text), expected.map(Duration::from_secs), "{text}");
        }
    }
}
