//! # Tests of what a pool keeps
//!
//! Job: every order of what may happen, against an obvious model. Callers: `cargo test`.

use super::*;
use std::{cell::Cell, rc::Rc};

const S: Duration = Duration::from_secs(1);
const RULES: Rules =
    Rules { max: 2, idle: Duration::from_secs(2), max_age: Duration::from_secs(60) };

/// A number, and whether the peer has closed it.
#[derive(Clone, Debug)]
struct Fake {
    number: usize,
    closed: Rc<Cell<bool>>,
    opened: Instant,
}

impl Connection for Fake {
    fn is_closed(&self) -> bool {
        self.closed.get()
    }

    fn opened(&self) -> Instant {
        self.opened
    }
}

impl PartialEq for Fake {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Park(char),
    ParkOld,
    ParkClosed,
    Spare,
    Take(char),
    Sweep,
    Close,
    /// A second passes.
    Second,
    /// The peer closes what was parked last.
    Closes,
}

const EVENTS: [Event; 11] = [
    Event::Park('a'),
    Event::Park('b'),
    Event::ParkOld,
    Event::ParkClosed,
    Event::Spare,
    Event::Take('a'),
    Event::Take('b'),
    Event::Sweep,
    Event::Close,
    Event::Second,
    Event::Closes,
];

/// The obvious way: one list in the order of parking. No key: anybody may have it.
#[derive(Default)]
struct Model {
    kept: Vec<(Fake, Option<char>, Instant)>,
    swept: bool,
    closed: bool,
}

impl Model {
    fn park(&mut self, new: Fake, key: Option<char>, now: Instant) -> Effect<Fake> {
        if self.closed || new.is_closed() || now - new.opened >= RULES.max_age {
            return Effect::None;
        }
        if key.is_none() {
            self.kept.retain(|(_, of, _)| of.is_some());
        }
        let room = key.is_none() || self.kept.iter().filter(|(_, of, _)| *of == key).count() < 2;
        if room {
            self.kept.push((new, key, now));
        }
        if std::mem::replace(&mut self.swept, true) { Effect::None } else { Effect::Begin }
    }

    fn take(&mut self, key: char) -> Effect<Fake> {
        // What is found closed on the way is gone too.
        for whose in [Some(key), None] {
            while let Some(at) = self.kept.iter().rposition(|(_, of, _)| *of == whose) {
                let (found, ..) = self.kept.remove(at);
                if !found.is_closed() {
                    return Effect::Take(found);
                }
            }
        }
        Effect::None
    }

    fn sweep(&mut self, now: Instant) -> Effect<Fake> {
        self.kept.retain(|(c, _, since)| !c.is_closed() && now - *since < RULES.idle);
        if self.kept.is_empty() {
            self.swept = false;
            return Effect::End;
        }
        Effect::None
    }
}

/// How many the state holds, and for whom.
fn held(state: &State<char, Fake>) -> (usize, usize, usize) {
    let State::Swept(kept) = state else { return (0, 0, 0) };
    let of = |key| kept.of.get(&key).map_or(0, Vec::len);
    (of('a'), of('b'), kept.spare.iter().len())
}

/// Runs one order of events through the state and the model.
fn run(order: &[Event], start: Instant) {
    let (mut state, mut model, mut now) = (State::default(), Model::default(), start);
    for (number, event) in order.iter().enumerate() {
        let fresh = Fake { number, closed: Rc::default(), opened: now };
        let (input, expected) = match *event {
            Event::Park(key) => {
                (Input::Park(Some(key), fresh.clone()), model.park(fresh, Some(key), now))
            }
            Event::ParkOld => {
                let old = Fake { opened: now - RULES.max_age, ..fresh };
                (Input::Park(Some('a'), old.clone()), model.park(old, Some('a'), now))
            }
            Event::ParkClosed => {
                fresh.closed.set(true);
                (Input::Park(Some('a'), fresh.clone()), model.park(fresh, Some('a'), now))
            }
            Event::Spare => (Input::Park(None, fresh.clone()), model.park(fresh, None, now)),
            Event::Take('a') => (Input::Take(&'a'), model.take('a')),
            Event::Take(_) => (Input::Take(&'b'), model.take('b')),
            Event::Sweep => (Input::Sweep, model.sweep(now)),
            Event::Close => {
                model = Model { closed: true, ..Model::default() };
                (Input::Close, Effect::None)
            }
            Event::Second => {
                now += S;
                continue;
            }
            Event::Closes => {
                model.kept.last().inspect(|(last, ..)| last.closed.set(true));
                continue;
            }
        };
        assert_eq!(state.advance(input, now, &RULES), expected, "{event:?} of {order:?}");
        let of = |key| model.kept.iter().filter(|(_, of, _)| *of == key).count();
        let kept = (of(Some('a')), of(Some('b')), of(None));
        assert_eq!(held(&state), kept, "after {event:?} of {order:?}");
        let swept = matches!(state, State::Swept(_));
        assert_eq!(swept, model.swept, "who sweeps after {event:?} of {order:?}");
    }
}

// proves: STACK-8
#[test]
fn every_order_of_what_may_happen_to_a_pool() {
    let start = Instant::now() + RULES.max_age;
    let count = EVENTS.len();
    for number in 0..count.pow(5) {
        let order: [Event; 5] =
            std::array::from_fn(|place| EVENTS[number / count.pow(place as u32) % count]);
        run(&order, start);
    }
}

// proves: STACK-8
#[test]
fn a_burst_leaves_no_room_behind() {
    let now = Instant::now();
    let rules = Rules { max: 10_000, ..RULES };
    let mut state = State::default();
    let connection = |number| Fake { number, closed: Rc::default(), opened: now };
    for number in 0..5000 {
        state.advance(Input::Park(Some(number % 1000), connection(number)), now, &rules);
    }
    state.advance(Input::Park(Some(0), connection(5000)), now + S, &rules);
    assert_eq!(state.advance(Input::Sweep, now + S * 2, &rules), Effect::None);
    let State::Swept(kept) = &state else { panic!("one is left") };
    let rooms: usize = kept.of.values().map(Vec::capacity).sum();
    assert!(kept.of.capacity() < 16 && rooms < 16, "{} and {rooms}", kept.of.capacity());
}
