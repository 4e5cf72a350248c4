//! # Retry budget
//!
//! Job: how much may be tried again: a share of what was asked of late, and so many a second in any case.
//! May touch: an instant given by the caller. Must not touch: the decision to retry.
//! Callers: profile routes.
//!
//! A token bucket over ten slots of the budget's `ttl`: what is put in or taken out counts until its slot
//! passes. A request puts in `ratio` of a retry's price, so that many small deposits pay for one retry.

use mesh_model::profile::RetryBudget;
use parking_lot::Mutex;
use std::{fmt, time::Duration};
use tokio::time::Instant;

/// The budget of all requests to one destination.
pub struct Budget {
    deposit: i64,
    reserve: i64,
    width: Duration,
    slots: Mutex<Slots>,
}

struct Slots {
    start: Instant,
    /// Number of the newest slot since the start.
    at: u64,
    sums: [i64; SLOTS],
}

const SLOTS: usize = 10;
/// What a retry costs, in millionths as the ratio is.
const PRICE: i64 = 1_000_000;

impl Budget {
    /// A budget that nothing has been taken from.
    pub fn new(budget: &RetryBudget, now: Instant) -> Self {
        let reserve = f64::from(budget.min_per_second) * budget.ttl.as_secs_f64() * PRICE as f64;
        Self {
            deposit: budget.ratio.into(),
            // Below 2^31 a second times 60 s times 10^6, so it fits.
            reserve: reserve as i64,
            width: (budget.ttl / SLOTS as u32).max(Duration::from_millis(1)),
            slots: Mutex::new(Slots { start: now, at: 0, sums: [0; SLOTS] }),
        }
    }

    /// A first attempt is made.
    pub fn deposit(&self, now: Instant) {
        let mut slots = self.slots.lock();
        slots.turn(now, self.width);
        slots.add(self.deposit);
    }

    /// Whether a retry may be made; if so, it is paid for.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut slots = self.slots.lock();
        slots.turn(now, self.width);
        let balance = slots.sums.iter().fold(self.reserve, |sum, slot| sum.saturating_add(*slot));
        let pays = balance >= PRICE;
        if pays {
            slots.add(-PRICE);
        }
        pays
    }
}

impl Slots {
    fn add(&mut self, amount: i64) {
        let slot = &mut self.sums[self.at as usize % SLOTS];
        *slot = slot.saturating_add(amount);
    }

    /// Forgets what has passed.
    fn turn(&mut self, now: Instant, width: Duration) {
        let passed = now.saturating_duration_since(self.start).as_nanos() / width.as_nanos();
        let at = u64::try_from(passed).unwrap_or(u64::MAX).max(self.at);
        for stale in 1..=(at - self.at).min(SLOTS as u64) {
            self.sums[((self.at + stale) % SLOTS as u64) as usize] = 0;
        }
        self.at = at;
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("reserve", &self.reserve).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn budget(ratio: u32, min_per_second: u32) -> (Budget, Instant) {
        let now = Instant::now();
        (Budget::new(&RetryBudget { ratio, min_per_second, ttl: S * 10 }, now), now)
    }

    fn withdrawals(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    // proves: PROF-6
    #[tokio::test(start_paused = true)]
    async fn requests_pay_for_retries_by_the_ratio() {
        let (budget, now) = budget(200_000, 0);
        assert!(!budget.withdraw(now), "empty");
        (0..25).for_each(|_| budget.deposit(now));
        assert_eq!(withdrawals(&budget, now), 5);
    }

    // proves: PROF-6
    #[tokio::test(start_paused = true)]
    async fn a_reserve_is_always_there_and_comes_back() {
        let (budget, now) = budget(0, 3);
        assert_eq!(withdrawals(&budget, now), 30, "three a second for ten seconds");
        assert_eq!(withdrawals(&budget, now + S * 9), 0);
        assert_eq!(withdrawals(&budget, now + S * 10), 30);
    }

    // proves: PROF-6
    #[tokio::test(start_paused = true)]
    async fn deposits_expire_with_their_time() {
        let (budget, now) = budget(1_000_000, 0);
        budget.deposit(now);
        budget.deposit(now + S * 5);
        assert_eq!(withdrawals(&budget, now + S * 10), 1);
        budget.deposit(now + S * 11);
        assert_eq!(withdrawals(&budget, now + S * 3600), 0);
    }
}
