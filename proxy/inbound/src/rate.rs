//! # Local rate limits, enforced
//!
//! Job: count requests against the limits of a server: of all clients together, then of each. GCRA: a
//! request takes 1/n of a second, and at most one second's worth may come at once.
//! May touch: a clock, counts. Must not touch: responses. Callers: `policy` keeps one for a port and all
//! workers, `http` asks before a request goes on.

use governor::{Quota, RateLimiter, clock, middleware::NoOpMiddleware, state};
use mesh_model::{identity::Identity, inbound::RateLimit};
use mesh_observe::RateLimitScope;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The limits of one server, with what is left of them. Shared by all connections to its port.
pub(crate) struct RateLimits {
    config: Arc<RateLimit>,
    clock: Clock,
    total: Option<Bucket>,
    clients: Mutex<HashMap<Option<Identity>, Arc<Bucket>>>,
}

/// The limits that one client meets. Resolved once for a connection.
#[derive(Clone)]
pub(crate) struct ClientLimits {
    limits: Arc<RateLimits>,
    own: Option<(Arc<Bucket>, bool)>,
}

/// A request that a limit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} rate limit exceeded: {rps}rps", self.name())]
pub(crate) struct Limited {
    /// Whose limit.
    pub(crate) scope: RateLimitScope,
    overridden: bool,
    rps: NonZeroU32,
}

struct Bucket {
    limit: NonZeroU32,
    gcra: RateLimiter<state::NotKeyed, state::InMemoryState, Clock, NoOpMiddleware<Duration>>,
    /// When it was last asked, milliseconds of the clock.
    used: AtomicU64,
}

/// Time since the limits were made; paused with the runtime's clock in tests.
#[derive(Clone, Copy)]
struct Clock(Instant);

/// A bucket left alone this long is as good as new, whatever its limit: a burst is a second's worth.
const FULL_AGAIN: Duration = Duration::from_secs(1);
/// From so many clients on, those whose buckets are as good as new are forgotten.
const SWEEP: usize = 1024;

// === impl RateLimits ===

impl RateLimits {
    pub(crate) fn new(config: Arc<RateLimit>) -> Self {
        let clock = Clock(Instant::now());
        let total = config.total.map(|limit| Bucket::new(limit, clock));
        Self { config, clock, total, clients: Mutex::default() }
    }

    pub(crate) fn config(&self) -> &Arc<RateLimit> {
        &self.config
    }

    /// The limits of this client.
    pub(crate) fn of(self: &Arc<Self>, client: Option<&Identity>) -> ClientLimits {
        let own = self.config.of_client(client);
        let own = own.map(|(limit, overridden)| (self.bucket(client, limit), overridden));
        ClientLimits { limits: self.clone(), own }
    }

    fn bucket(&self, client: Option<&Identity>, limit: NonZeroU32) -> Arc<Bucket> {
        let mut clients = self.clients.lock();
        let client = client.cloned();
        if let Some(bucket) = clients.get(&client) {
            return bucket.clone();
        }
        if clients.len() >= SWEEP {
            let now = self.clock.millis();
            clients.retain(|_, bucket| Arc::strong_count(bucket) > 1 || bucket.is_in_use(now));
        }
        let bucket = Arc::new(Bucket::new(limit, self.clock));
        clients.insert(client, bucket.clone());
        bucket
    }
}

// === impl ClientLimits ===

impl ClientLimits {
    /// Takes a place for a request.
    ///
    /// # Errors
    /// When the limit of all, or the client's own, is reached. What the first has given is not given back.
    pub(crate) fn admit(&self) -> Result<(), Limited> {
        let limited = |bucket: &Bucket, scope, overridden| match bucket.take() {
            true => Ok(()),
            false => Err(Limited { scope, overridden, rps: bucket.limit }),
        };
        if let Some(total) = &self.limits.total {
            limited(total, RateLimitScope::Total, false)?;
        }
        match &self.own {
            Some((own, overridden)) => limited(own, RateLimitScope::Identity, *overridden),
            None => Ok(()),
        }
    }

    pub(crate) fn config(&self) -> &RateLimit {
        &self.limits.config
    }
}

impl Limited {
    fn name(&self) -> &'static str {
        match (self.scope, self.overridden) {
            (RateLimitScope::Total, _) => "total",
            (RateLimitScope::Identity, false) => "per-identity",
            (RateLimitScope::Identity, true) => "override",
        }
    }
}

// === impl Bucket ===

impl Bucket {
    fn new(limit: NonZeroU32, clock: Clock) -> Self {
        let gcra = RateLimiter::direct_with_clock(Quota::per_second(limit), clock);
        Self { limit, gcra, used: AtomicU64::new(clock.millis()) }
    }

    fn take(&self) -> bool {
        self.used.store(self.gcra.clock().millis(), Relaxed);
        self.gcra.check().is_ok()
    }

    fn is_in_use(&self, now: u64) -> bool {
        let idle = now.saturating_sub(self.used.load(Relaxed));
        Duration::from_millis(idle) < FULL_AGAIN
    }
}

impl Clock {
    fn millis(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl clock::Clock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{inbound::RateOverride, meta::Meta};

    fn limits(total: u32, identity: u32) -> Arc<RateLimits> {
        Arc::new(RateLimits::new(Arc::new(RateLimit {
            meta: Meta::built_in("r"),
            total: NonZeroU32::new(total),
            identity: NonZeroU32::new(identity),
            overrides: vec![RateOverride {
                limit: NonZeroU32::MIN,
                clients: vec!["slow.b".parse().unwrap()],
            }],
        })))
    }

    fn admitted(client: &ClientLimits, of: usize) -> usize {
        (0..of).filter(|_| client.admit().is_ok()).count()
    }

    // proves: RATE-1
    #[tokio::test(start_paused = true)]
    async fn a_second_has_room_for_its_number_and_refills_evenly() {
        let limits = limits(0, 10);
        let client = limits.of(Some(&"a.b".parse().unwrap()));
        assert_eq!(admitted(&client, 50), 10);
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(admitted(&client, 50), 3);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(admitted(&client, 50), 10, "no more than a second's worth is saved");
    }

    // proves: RATE-1
    #[tokio::test(start_paused = true)]
    async fn each_client_has_its_own_room_within_that_of_all() {
        let limits = limits(15, 10);
        let id = |text: &str| limits.of(Some(&text.parse().unwrap()));
        assert_eq!(admitted(&id("a.b"), 10), 10);
        assert_eq!(
            id("a.b").admit().unwrap_err().to_string(),
            "per-identity rate limit exceeded: 10rps"
        );
        assert_eq!(id("slow.b").admit(), Ok(()));
        assert_eq!(
            id("slow.b").admit().unwrap_err().to_string(),
            "override rate limit exceeded: 1rps"
        );
        // Refused ones have taken their place among all: 10 + 1 + 2 of 15.
        let anonymous = limits.of(None);
        assert_eq!(admitted(&anonymous, 5), 2, "clients without identity share one room");
        assert_eq!(anonymous.admit().unwrap_err().to_string(), "total rate limit exceeded: 15rps");
    }

    // proves: RATE-1
    #[tokio::test(start_paused = true)]
    async fn clients_that_are_gone_are_forgotten_and_cannot_reset_their_limit() {
        let limits = limits(0, 1);
        let name = |n: usize| format!("c{n}.b").parse::<Identity>().unwrap();
        for n in 0..SWEEP {
            assert_eq!(limits.of(Some(&name(n))).admit(), Ok(()));
        }
        assert!(limits.of(Some(&name(SWEEP))).admit().is_ok());
        assert!(limits.of(Some(&name(0))).admit().is_err(), "still remembered");
        tokio::time::advance(FULL_AGAIN).await;
        assert!(limits.of(Some(&name(SWEEP + 1))).admit().is_ok());
        assert_eq!(limits.clients.lock().len(), 1);
    }
}
