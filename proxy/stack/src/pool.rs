//! # Idle connections of an endpoint
//!
//! Job: which idle connections are kept, for whom and for how long: a state that one function advances.
//! May touch: values. Must not touch: clocks, locks, tasks, what a connection is. Callers: the HTTP/1 pool.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, hash::Hash, time::Duration};
use tokio::time::Instant;

/// What is asked of a connection that is kept.
pub trait Connection {
    /// Nothing can be sent on it any more.
    fn is_closed(&self) -> bool;
    /// Since when it is open.
    fn opened(&self) -> Instant;
}

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Connections for one key.
    pub max: usize,
    /// How long one may be idle; it is closed at the first sweep after that.
    pub idle: Duration,
    /// An older one is not kept.
    pub max_age: Duration,
}

/// What is kept.
#[derive(Debug, Default)]
pub enum State<K, C> {
    /// Nothing, and nobody sweeps.
    #[default]
    Empty,
    /// Something, or nothing since a moment ago; somebody sweeps.
    Swept(Kept<K, C>),
    /// Nothing, and nothing will be: what comes back is closed.
    Closed,
}

/// Connections by who may have them.
#[derive(Debug)]
pub struct Kept<K, C> {
    of: HashMap<K, Vec<Parked<C>>>,
    /// It has carried nothing, so anybody may have it.
    spare: Option<Parked<C>>,
}

#[derive(Debug)]
struct Parked<C> {
    connection: C,
    since: Instant,
}

/// What happens to a pool.
#[derive(Debug)]
pub enum Input<'k, K, C> {
    /// A connection is idle; only this key may have it, or anybody if it has carried nothing.
    Park(Option<K>, C),
    /// Somebody wants a connection.
    Take(&'k K),
    /// It is time to look for what was idle for too long.
    Sweep,
    /// All is to be closed, now and from now on.
    Close,
}

/// What follows.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<C> {
    /// Nothing to do.
    None,
    /// The connection, for who wanted one.
    Take(C),
    /// Somebody has to sweep from now on.
    Begin,
    /// Nothing is left to sweep.
    End,
}

impl<K: Hash + Eq, C: Connection> State<K, C> {
    /// Connections that are not kept are dropped.
    pub fn advance(&mut self, input: Input<'_, K, C>, now: Instant, rules: &Rules) -> Effect<C> {
        match (&mut *self, input) {
            (_, Input::Park(_, connection)) if !rules.takes(&connection, now) => Effect::None,
            (state, Input::Close) => {
                *state = Self::Closed;
                Effect::None
            }
            (Self::Empty, Input::Park(key, connection)) => {
                let mut kept = Kept { of: HashMap::new(), spare: None };
                kept.put(key, Parked { connection, since: now }, rules.max);
                *self = Self::Swept(kept);
                Effect::Begin
            }
            (Self::Swept(kept), Input::Park(key, connection)) => {
                kept.put(key, Parked { connection, since: now }, rules.max);
                Effect::None
            }
            (Self::Swept(kept), Input::Take(key)) => {
                kept.take(key).map_or(Effect::None, Effect::Take)
            }
            (Self::Swept(kept), Input::Sweep) => {
                kept.retain(|parked| rules.keeps(parked, now));
                if !kept.is_empty() {
                    return Effect::None;
                }
                *self = Self::Empty;
                Effect::End
            }
            (Self::Empty | Self::Closed, Input::Sweep) => Effect::End,
            (Self::Empty, Input::Take(_)) | (Self::Closed, Input::Take(_) | Input::Park(..)) => {
                Effect::None
            }
        }
    }
}

impl Rules {
    fn takes<C: Connection>(&self, connection: &C, now: Instant) -> bool {
        let age = now.saturating_duration_since(connection.opened());
        !connection.is_closed() && age < self.max_age
    }

    fn keeps<C: Connection>(&self, parked: &Parked<C>, now: Instant) -> bool {
        let idle = now.saturating_duration_since(parked.since);
        !parked.connection.is_closed() && idle < self.idle
    }
}

impl<K: Hash + Eq, C: Connection> Kept<K, C> {
    fn put(&mut self, key: Option<K>, parked: Parked<C>, max: usize) {
        let Some(key) = key else {
            self.spare = Some(parked);
            return;
        };
        let of = self.of.entry(key).or_default();
        if of.len() < max {
            of.push(parked);
        }
    }

    /// The one that was idle for the shortest time.
    fn take(&mut self, key: &K) -> Option<C> {
        let open = |parked: Parked<C>| Some(parked.connection).filter(|c| !c.is_closed());
        if let Some(parked) = self.of.get_mut(key) {
            while let Some(last) = parked.pop() {
                if let Some(connection) = open(last) {
                    return Some(connection);
                }
            }
        }
        self.spare.take().and_then(open)
    }

    fn retain(&mut self, keeps: impl Fn(&Parked<C>) -> bool) {
        self.spare.take_if(|spare| !keeps(spare));
        self.of.retain(|_, parked| {
            parked.retain(&keeps);
            // What a burst has made room for is given back.
            parked.shrink_to(parked.len() * 2);
            !parked.is_empty()
        });
        self.of.shrink_to(self.of.len() * 2);
    }

    fn is_empty(&self) -> bool {
        self.of.is_empty() && self.spare.is_none()
    }
}
