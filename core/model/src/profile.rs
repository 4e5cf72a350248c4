//! # Service profiles as a client sees them
//!
//! Job: the answer of `Destination.GetProfile`: name, opacity, weighted targets, routes, retry budget.
//! May touch: values. Callers: destination, outbound discovery, the gateway.

use crate::{
    authority::NameAddr,
    endpoint::{Endpoint, Labels},
    identity::DnsName,
    meta::Meta,
    response::ResponseClass,
    route::Pattern,
};
use std::{sync::Arc, time::Duration};

/// What is known of a destination by name or address (`destination.DestinationProfile`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The Service's name; `None` for endpoint profiles and for undeclared ports.
    pub fqn: Option<DnsName>,
    /// The destination must not be sniffed.
    pub opaque: bool,
    /// Set when the destination is one address.
    pub endpoint: Option<Endpoint>,
    /// Weighted targets; empty means the profile's own name.
    pub targets: Vec<ProfileTarget>,
    /// The Service this profile belongs to.
    pub parent: Option<Meta>,
    /// Tried in order; what none matches is carried without any of their rules.
    pub routes: Arc<[ProfileRoute]>,
    /// What retries may cost; `None`: nothing is tried again.
    pub budget: Option<RetryBudget>,
}

/// One of `dst_overrides`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileTarget {
    /// Where to.
    pub addr: NameAddr,
    /// Relative weight; 0 means unused.
    pub weight: u32,
}

/// What is different for some requests (`destination.Route`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileRoute {
    /// Which requests.
    pub condition: RequestMatch,
    /// What their responses mean; the first that matches decides, else the usual rules.
    pub responses: Arc<[ResponseClass]>,
    /// `rt_` labels of metrics, without the prefix.
    pub labels: Labels,
    /// A failed request may be sent again, within the budget.
    pub retryable: bool,
    /// Until the response's head.
    pub timeout: Option<Duration>,
}

/// A condition on a request (`destination.RequestMatch`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestMatch {
    /// All hold; of none, always.
    All(Vec<RequestMatch>),
    /// One holds; of none, never.
    Any(Vec<RequestMatch>),
    /// It does not hold.
    Not(Box<RequestMatch>),
    /// The whole path matches.
    Path(Pattern),
    /// The method is this, upper case.
    Method(String),
}

/// How much retrying may add to the load (`destination.RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries per request, millionths; at most 1000 in all.
    pub ratio: u32,
    /// So many a second are allowed in any case.
    pub min_per_second: u32,
    /// How long a request counts, 1 s to 60 s.
    pub ttl: Duration,
}

impl Profile {
    /// Whether HTTP follows this profile, not the policy.
    pub fn routes_http(&self) -> bool {
        self.fqn.is_some() && (!self.routes.is_empty() || self.targets.iter().any(|t| t.weight > 0))
    }
}

impl RequestMatch {
    /// Whether a request matches; `path` without query.
    pub fn matches(&self, method: &str, path: &str) -> bool {
        match self {
            Self::All(all) => all.iter().all(|m| m.matches(method, path)),
            Self::Any(any) => any.iter().any(|m| m.matches(method, path)),
            Self::Not(not) => !not.matches(method, path),
            Self::Path(pattern) => pattern.covers(path),
            Self::Method(name) => name == method,
        }
    }
}

impl RetryBudget {
    /// Most retries per request, millionths.
    pub const MAX_RATIO: u32 = 1_000_000_000;
    /// Bounds of `ttl`.
    pub const TTL: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(60);

    /// A budget whose numbers are within their bounds.
    pub fn checked(self) -> Option<Self> {
        let good = self.ratio <= Self::MAX_RATIO
            && self.min_per_second <= i32::MAX as u32
            && Self::TTL.contains(&self.ttl);
        good.then_some(self)
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 200_000, min_per_second: 10, ttl: Duration::from_secs(10) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_match_by_method_and_whole_path() {
        let path = RequestMatch::Path(Pattern::new("/api/[0-9]+").expect("a pattern"));
        let get = RequestMatch::Method("GET".into());
        let both = RequestMatch::All(vec![path.clone(), get.clone()]);
        assert!(both.matches("GET", "/api/12"));
        assert!(!both.matches("POST", "/api/12") && !both.matches("GET", "/api/12/x"));
        let neither = RequestMatch::Not(RequestMatch::Any(vec![path, get]).into());
        assert!(neither.matches("POST", "/") && !neither.matches("POST", "/api/1"));
    }

    #[test]
    fn budgets_have_bounds() {
        let budget = RetryBudget::default();
        assert_eq!(budget.checked(), Some(budget));
        for bad in [
            RetryBudget { ratio: RetryBudget::MAX_RATIO + 1, ..budget },
            RetryBudget { min_per_second: u32::MAX, ..budget },
            RetryBudget { ttl: Duration::from_millis(999), ..budget },
            RetryBudget { ttl: Duration::from_secs(61), ..budget },
        ] {
            assert_eq!(bad.checked(), None, "{bad:?}");
        }
    }
}
