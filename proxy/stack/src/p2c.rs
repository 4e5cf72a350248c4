//! # Power of two choices
//!
//! Job: pick two ready members at random and take the less loaded one.
//! May touch: a random source. Must not touch: what a member is. Callers: balancers.

use rand::{Rng, RngExt};

/// Picks among the members that are ready: the less loaded of two distinct random ones (ties: the first
/// picked), or the only one. `None` if none is ready.
pub fn pick<'a, T>(
    members: &'a [T],
    rng: &mut impl Rng,
    ready: impl Fn(&T) -> bool,
    load: impl Fn(&T) -> f64,
) -> Option<&'a T> {
    let (first, second) = match members {
        [] => return None,
        [one] => return Some(one).filter(|m| ready(m)),
        _ => sample(members, rng, &ready)?,
    };
    match second {
        Some(second) if load(second) < load(first) => Some(second),
        _ => Some(first),
    }
}

/// Two distinct ready members, or one. Usually the first two tries are ready; else one pass draws
/// them uniformly (reservoir of two).
fn sample<'a, T>(
    members: &'a [T],
    rng: &mut impl Rng,
    ready: &impl Fn(&T) -> bool,
) -> Option<(&'a T, Option<&'a T>)> {
    let a = rng.random_range(0..members.len());
    let b = (a + rng.random_range(1..members.len())) % members.len();
    if ready(&members[a]) && ready(&members[b]) {
        return Some((&members[a], Some(&members[b])));
    }
    let mut held = [None, None];
    for (seen, member) in members.iter().filter(|m| ready(m)).enumerate() {
        if seen < 2 {
            held[seen] = Some(member);
        } else if let at @ 0..2 = rng.random_range(0..=seen) {
            held[at] = Some(member);
        }
    }
    held[0].map(|first| (first, held[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: STACK-4
    #[test]
    fn takes_the_less_loaded_of_two_and_skips_the_unready() {
        let members: Vec<(bool, f64)> = vec![(true, 9.0), (false, 0.0), (true, 1.0), (false, 0.0)];
        for _ in 0..200 {
            let picked = pick(&members, &mut rand::rng(), |m| m.0, |m| m.1).unwrap();
            assert_eq!(*picked, (true, 1.0));
        }
        let none: Vec<(bool, f64)> = vec![(false, 0.0); 3];
        assert!(pick(&none, &mut rand::rng(), |m| m.0, |m| m.1).is_none());
        assert!(pick(&none[..0], &mut rand::rng(), |m| m.0, |m| m.1).is_none());
        assert!(pick(&[1], &mut rand::rng(), |_| true, |_| 0.0).is_some());
    }

    // proves: STACK-4
    #[test]
    fn equal_members_share_evenly() {
        let members: Vec<usize> = (0..4).collect();
        let mut hits = [0; 4];
        for _ in 0..8000 {
            hits[*pick(&members, &mut rand::rng(), |_| true, |_| 1.0).unwrap()] += 1;
        }
        assert!(hits.iter().all(|h| (1700..2300).contains(h)), "{hits:?}");
    }
}
