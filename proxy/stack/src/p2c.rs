//! # Choice among members
//!
//! Job: power of two choices (two ready members at random, the less loaded one) and turns.
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

/// As [`pick`] where members have unlike shares, in 0 to 1: the less loaded of two that are drawn by share,
/// which may be one twice. So members of equal load get what is theirs; and with share `p`, load moves
/// that between `p²` and `1-(1-p)²`. Two *distinct* ones of two would be both, whatever their shares.
pub fn pick_by_share<'a, T>(
    members: &'a [T],
    rng: &mut impl Rng,
    ready: impl Fn(&T) -> bool,
    load: impl Fn(&T) -> f64,
    share: impl Fn(&T) -> f64,
) -> Option<&'a T> {
    let first = draw(members, rng, &ready, &share)?;
    let second = draw(members, rng, &ready, &share)?;
    if std::ptr::eq(first, second) || load(first) <= load(second) {
        return Some(first);
    }
    Some(second)
}

/// One ready member, with a chance in proportion to its share.
pub fn draw<'a, T>(
    members: &'a [T],
    rng: &mut impl Rng,
    ready: &impl Fn(&T) -> bool,
    share: &impl Fn(&T) -> f64,
) -> Option<&'a T> {
    /// A few tries usually hit; else one pass over all draws exactly.
    const TRIES: usize = 8;
    if members.is_empty() {
        return None;
    }
    for _ in 0..TRIES {
        let member = &members[rng.random_range(0..members.len())];
        if rng.random::<f64>() < share(member) && ready(member) {
            return Some(member);
        }
    }
    let total: f64 = members.iter().filter(|m| ready(m)).map(share).sum();
    let mut left = rng.random::<f64>() * total;
    let mut last = None;
    for member in members.iter().filter(|m| ready(m)) {
        last = Some(member);
        left -= share(member);
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The member whose turn it is; if it is not ready, the turn goes around among those that are, so that no
/// neighbour gets the share of another.
pub fn turn<T>(members: &[T], turn: usize, ready: impl Fn(&T) -> bool) -> Option<&T> {
    if members.is_empty() {
        return None;
    }
    let next = &members[turn % members.len()];
    if ready(next) {
        return Some(next);
    }
    let able = members.iter().filter(|m| ready(m)).count();
    // Divided by the number of members: the turns that come here are those of an unready one.
    let at = (turn / members.len()).checked_rem(able)?;
    members.iter().filter(|m| ready(m)).nth(at)
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

    // proves: BAL-9
    #[test]
    fn shares_are_kept_within_what_load_may_move() {
        let members = [(0, 1.0), (1, 1.0 / 3.0)];
        let count = |load: fn(&(usize, f64)) -> f64| {
            let mut hits = [0; 2];
            for _ in 0..16_000 {
                let rng = &mut rand::rng();
                hits[pick_by_share(&members, rng, |_| true, load, |m| m.1).unwrap().0] += 1;
            }
            hits[0] as f64 / 16_000.0
        };
        let equal = count(|_| 1.0);
        assert!((0.73..0.77).contains(&equal), "{equal}");
        let busy = count(|m| if m.0 == 0 { 2.0 } else { 1.0 });
        assert!((0.54..0.59).contains(&busy), "{busy}");
        let none = pick_by_share(&members, &mut rand::rng(), |_| false, |_| 0.0, |m| m.1);
        assert!(none.is_none());
    }

    // proves: BAL-7
    #[test]
    fn turns_go_around_and_pass_the_unready_on_evenly() {
        let members = [0, 1, 2, 3];
        let order: Vec<_> = (0..8).map(|t| *turn(&members, t, |_| true).unwrap()).collect();
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
        let mut hits = [0; 4];
        for t in 0..1200 {
            hits[*turn(&members, t, |m| *m != 1).unwrap()] += 1;
        }
        assert_eq!(hits, [400, 0, 400, 400]);
        assert_eq!(turn(&members, 5, |_| false), None);
        assert_eq!(turn(&members[..0], 5, |_| true), None);
    }
}
