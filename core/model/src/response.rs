//! # What responses mean
//!
//! Job: sets of HTTP statuses and gRPC codes, and the classes by which a profile or a policy calls a
//! response a failure.
//! May touch: values. Must not touch: HTTP types. Callers: profiles, retries, breakers, metrics.

use std::ops::RangeInclusive;

/// HTTP statuses, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusRanges(Vec<RangeInclusive<u16>>);

/// gRPC codes 0 to 31; others belong to no set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GrpcCodes(u32);

/// Says of some responses whether they are failures; of several classes the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResponseClass {
    /// Which responses.
    pub condition: ResponseMatch,
    /// What they are.
    pub failure: bool,
}

/// A condition on a response's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ResponseMatch {
    /// All hold; of none, always.
    All(Vec<ResponseMatch>),
    /// One holds; of none, never.
    Any(Vec<ResponseMatch>),
    /// It does not hold.
    Not(Box<ResponseMatch>),
    /// The status lies in the range.
    Status(RangeInclusive<u16>),
}

// === impl StatusRanges ===

impl StatusRanges {
    /// 500 to 599.
    pub fn server_errors() -> Self {
        Self(vec![500..=599])
    }

    /// Whether a status is in the set.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(RangeInclusive::is_empty)
    }

    /// The ranges, as they were given.
    pub fn iter(&self) -> impl Iterator<Item = &RangeInclusive<u16>> {
        self.0.iter()
    }
}

impl FromIterator<RangeInclusive<u16>> for StatusRanges {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        Self(ranges.into_iter().collect())
    }
}

// === impl GrpcCodes ===

impl GrpcCodes {
    /// UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS: what Linkerd's
    /// metrics count as failures.
    pub const FAILURES: Self = Self::of(&[2, 4, 7, 13, 14, 15]);

    /// The set of these codes; those above 31 are left out.
    pub const fn of(codes: &[u16]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < codes.len() {
            if codes[at] < 32 {
                bits |= 1 << codes[at];
            }
            at += 1;
        }
        Self(bits)
    }

    /// Whether a code is in the set.
    pub const fn contains(self, code: u16) -> bool {
        code < 32 && self.0 & (1 << code) != 0
    }

    /// The set without a code.
    #[must_use]
    pub const fn without(self, code: u16) -> Self {
        Self(self.0 & !Self::of(&[code]).0)
    }

    /// The set with a code.
    #[must_use]
    pub const fn with(self, code: u16) -> Self {
        Self(self.0 | Self::of(&[code]).0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The codes, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..32).filter(move |code| self.contains(*code))
    }
}

impl FromIterator<u16> for GrpcCodes {
    fn from_iter<I: IntoIterator<Item = u16>>(codes: I) -> Self {
        codes.into_iter().fold(Self::default(), Self::with)
    }
}

// === impl ResponseMatch ===

impl ResponseMatch {
    /// Whether a response with this status matches.
    pub fn matches(&self, status: u16) -> bool {
        match self {
            Self::All(all) => all.iter().all(|m| m.matches(status)),
            Self::Any(any) => any.iter().any(|m| m.matches(status)),
            Self::Not(not) => !not.matches(status),
            Self::Status(range) => range.contains(&status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_nest() {
        let status = |range| ResponseMatch::Status(range);
        let some = ResponseMatch::Any(vec![status(500..=599), status(429..=429)]);
        let but = ResponseMatch::All(vec![some, ResponseMatch::Not(status(503..=503).into())]);
        for (code, expected) in [(500, true), (429, true), (503, false), (200, false)] {
            assert_eq!(but.matches(code), expected, "{code}");
        }
        assert!(ResponseMatch::All(vec![]).matches(200));
        assert!(!ResponseMatch::Any(vec![]).matches(200));
    }

    #[test]
    fn sets_of_codes() {
        assert_eq!(GrpcCodes::FAILURES.iter().collect::<Vec<_>>(), [2, 4, 7, 13, 14, 15]);
        assert!(!GrpcCodes::FAILURES.without(7).contains(7));
        assert!(!GrpcCodes::of(&[99]).contains(99));
        let ranges: StatusRanges = [500..=502, 504..=504].into_iter().collect();
        assert!(ranges.contains(504) && !ranges.contains(503) && !ranges.is_empty());
    }
}
