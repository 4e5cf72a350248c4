//! # Weighted choice
//!
//! Job: pick one of several with given weights, skipping those that cannot be used now.
//! May touch: a random source. Must not touch: what an item is. Callers: traffic splits.

use rand::{Rng, RngExt};

/// Picks an item among the usable ones, with probability in proportion to its weight. Weight 0 is never
/// picked; `None` if nothing usable has weight.
pub fn pick<'a, T>(
    items: &'a [T],
    rng: &mut impl Rng,
    usable: impl Fn(&T) -> bool,
    weight: impl Fn(&T) -> u32,
) -> Option<&'a T> {
    let total: u64 = items.iter().filter(|i| usable(i)).map(|i| u64::from(weight(i))).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.random_range(0..total);
    items.iter().filter(|i| usable(i)).find(|item| {
        let weight = u64::from(weight(item));
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: STACK-6
    #[test]
    fn follows_the_weights() {
        let items = [('a', 1), ('b', 3), ('c', 0)];
        let mut hits = std::collections::HashMap::new();
        for _ in 0..8000 {
            let (name, _) = pick(&items, &mut rand::rng(), |_| true, |i| i.1).unwrap();
            *hits.entry(*name).or_insert(0) += 1;
        }
        assert!((1700..2300).contains(&hits[&'a']), "{hits:?}");
        assert_eq!(hits.len(), 2);
        assert!(pick(&items, &mut rand::rng(), |i| i.0 == 'c', |i| i.1).is_none());
    }
}
