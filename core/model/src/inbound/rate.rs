//! # Local rate limits
//!
//! Job: how many requests a second a proxy takes, of all clients and of each (HTTPLocalRateLimitPolicy).
//! May touch: values. Must not touch: clocks, counts: who enforces it keeps those.
//! Callers: the policy controller, the inbound proxy.

use crate::{identity::Identity, meta::Meta};
use std::num::NonZeroU32;

/// Limits of one server, each in requests a second; a burst of one second's worth is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The policy object, for metrics.
    pub meta: Meta,
    /// Of all clients together.
    pub total: Option<NonZeroU32>,
    /// Of each identity; clients without one share theirs.
    pub identity: Option<NonZeroU32>,
    /// Instead of `identity`, for these clients; the first that names a client counts.
    pub overrides: Vec<RateOverride>,
}

/// Another limit for some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateOverride {
    /// Of each of them.
    pub limit: NonZeroU32,
    /// Whom.
    pub clients: Vec<Identity>,
}

impl RateLimit {
    /// The limit of this client alone, and whether an override gives it.
    pub fn of_client(&self, client: Option<&Identity>) -> Option<(NonZeroU32, bool)> {
        let named = |o: &&RateOverride| client.is_some_and(|id| o.clients.contains(id));
        match self.overrides.iter().find(named) {
            Some(over) => Some((over.limit, true)),
            None => self.identity.map(|limit| (limit, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_come_before_the_limit_of_each() {
        let id = |text: &str| text.parse::<Identity>().expect("an identity");
        let number = |n| NonZeroU32::new(n).expect("not zero");
        let mut limit = RateLimit {
            meta: Meta::built_in("r"),
            total: None,
            identity: Some(number(5)),
            overrides: vec![
                RateOverride { limit: number(9), clients: vec![id("a.b")] },
                RateOverride { limit: number(1), clients: vec![id("a.b"), id("c.d")] },
            ],
        };
        assert_eq!(limit.of_client(Some(&id("a.b"))), Some((number(9), true)));
        assert_eq!(limit.of_client(Some(&id("c.d"))), Some((number(1), true)));
        assert_eq!(limit.of_client(None), Some((number(5), false)));
        limit.identity = None;
        assert_eq!(limit.of_client(Some(&id("x.y"))), None);
    }
}
