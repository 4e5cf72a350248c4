//! # Tests of balanced sets
//!
//! Job: discovery and readiness by hand, paused time. Callers: `cargo test`.

use super::*;
use mesh_model::endpoint::EndpointMetadata;
use std::collections::HashMap;

const S: Duration = Duration::from_secs(1);

struct Fake {
    endpoint: Endpoint,
    ready: AtomicBool,
    resumes: Option<Instant>,
    withdrawn: AtomicBool,
}

impl Member for Fake {
    type Ask = ();

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn takes(self: &Arc<Self>, (): &(), now: Instant) -> bool {
        self.is_ready(now)
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.ready.load(Relaxed) || self.resumes.is_some_and(|at| at <= now)
    }

    fn resumes(&self) -> Option<Instant> {
        self.resumes
    }

    fn demand(&self) {}

    fn reset_backoff(&self) {}

    fn withdraw(&self) {
        self.withdrawn.store(true, Relaxed);
    }
}

fn addr(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 80).into()
}

fn known(endpoints: impl IntoIterator<Item = (u8, u32)>) -> EndpointSet {
    let metadata = |weight| Arc::new(EndpointMetadata { weight, ..Default::default() });
    EndpointSet::Known(endpoints.into_iter().map(|(n, w)| (addr(n), metadata(w))).collect())
}

fn set(balancing: Balancing) -> Arc<Set<Fake>> {
    Set::unmetered(SetParams::requests(&balancing, 2, S * 3))
}

fn least_loaded() -> Balancing {
    Balancing { algorithm: Algorithm::LeastLoaded, ..Balancing::default() }
}

fn fill(set: &Set<Fake>, endpoints: impl IntoIterator<Item = (u8, u32)>, ready: bool) {
    set.apply(&known(endpoints), |endpoint| {
        let (ready, withdrawn) = (AtomicBool::new(ready), AtomicBool::new(false));
        Arc::new(Fake { endpoint, ready, resumes: None, withdrawn })
    });
}

fn picks(set: &Set<Fake>, tried: &Tried, count: usize) -> HashMap<SocketAddr, usize> {
    let mut hits = HashMap::new();
    for _ in 0..count {
        let picked = set.pick(&(), tried, Instant::now()).unwrap();
        *hits.entry(picked.member.endpoint.addr).or_default() += 1;
    }
    hits
}

fn member(set: &Set<Fake>, last: u8) -> Arc<Fake> {
    set.find(|m| (m.endpoint.addr == addr(last)).then(|| m.clone())).unwrap()
}

async fn acquire(set: &Set<Fake>) -> Result<SocketAddr, Unready<()>> {
    let picked = set.acquire(&(), &Tried::default(), |_| None).await;
    picked.map(|p| p.member.endpoint.addr)
}

// proves: BAL-6
#[tokio::test(start_paused = true)]
async fn a_retry_goes_where_the_call_has_not_been() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastLoaded, Algorithm::RoundRobin] {
        let set = set(Balancing { algorithm, ..Balancing::default() });
        fill(&set, [(1, 0), (2, 0), (3, 0)], true);
        let mut tried = Tried::default();
        tried.note(addr(1));
        assert!(!picks(&set, &tried, 100).contains_key(&addr(1)));
        tried.note(addr(2));
        assert_eq!(picks(&set, &tried, 100), [(addr(3), 100)].into());
        // With all tried, any but the last.
        tried.note(addr(3));
        assert!(!picks(&set, &tried, 100).contains_key(&addr(3)));
        for away in [1, 2] {
            member(&set, away).ready.store(false, Relaxed);
        }
        assert_eq!(picks(&set, &tried, 10), [(addr(3), 10)].into(), "the only one that is up");
    }
}

// proves: BAL-7
#[tokio::test(start_paused = true)]
async fn round_robin_gives_each_its_turn() {
    let set = set(Balancing { algorithm: Algorithm::RoundRobin, ..Balancing::default() });
    fill(&set, [(1, 0), (2, 0), (3, 0)], true);
    let hits = picks(&set, &Tried::default(), 300);
    assert_eq!(hits, [(addr(1), 100), (addr(2), 100), (addr(3), 100)].into());
}

// proves: BAL-7
#[tokio::test(start_paused = true)]
async fn least_loaded_evens_out_what_is_open() {
    let set = set(least_loaded());
    fill(&set, [(1, 0), (2, 0)], true);
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(set.pick(&(), &Tried::default(), Instant::now()).unwrap());
    }
    let of_one = open.iter().filter(|p| p.member.endpoint.addr == addr(1)).count();
    assert_eq!(of_one, 20);
}

// proves: BAL-9
#[tokio::test(start_paused = true)]
async fn weights_share_and_a_new_weight_makes_no_new_member() {
    let set = set(least_loaded());
    fill(&set, [(1, 10_000), (2, 30_000)], true);
    let before = member(&set, 1);
    let share = picks(&set, &Tried::default(), 8000)[&addr(2)];
    assert!((5700..6300).contains(&share), "{share}");
    fill(&set, [(1, 10_000), (2, 10_000)], false);
    assert!(Arc::ptr_eq(&before, &member(&set, 1)), "kept, with its connections");
    let share = picks(&set, &Tried::default(), 8000)[&addr(2)];
    assert!((3700..4300).contains(&share), "{share}");
}

// proves: BAL-10
#[tokio::test(start_paused = true)]
async fn a_new_endpoint_warms_up() {
    let set = set(Balancing { slow_start: S * 10, ..least_loaded() });
    fill(&set, [(1, 0), (2, 0), (3, 0)], true);
    let even = picks(&set, &Tried::default(), 3000);
    assert!(even.values().all(|n| (800..1200).contains(n)), "the first are equal: {even:?}");
    fill(&set, [(1, 0), (2, 0), (3, 0), (4, 0)], true);
    let share = || picks(&set, &Tried::default(), 4000).get(&addr(4)).copied().unwrap_or(0);
    let cold = share();
    assert!((60..200).contains(&cold), "a tenth of an equal share: {cold}");
    tokio::time::advance(S * 5).await;
    let warmer = share();
    assert!((450..700).contains(&warmer), "half as much as another: {warmer}");
    tokio::time::advance(S * 5).await;
    let warm = share();
    assert!((850..1150).contains(&warm), "{warm}");
}

// proves: STACK-3 STACK-5
#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_in_time_and_number() {
    let set = set(Balancing::default());
    fill(&set, [(1, 0)], false);
    let start = Instant::now();
    let (a, b, c) = tokio::join!(acquire(&set), acquire(&set), acquire(&set));
    assert_eq!(start.elapsed(), S * 3);
    let mut outcomes = [a, b, c];
    outcomes.sort_by_key(|o| matches!(o, Err(Unready::Full(_))));
    let failfast = || Err(Unready::FailFast(FailFast));
    assert_eq!(outcomes, [failfast(), failfast(), Err(Unready::Full(Full))]);
    assert!(!set.is_available());
    assert_eq!(acquire(&set).await, failfast());
    assert_eq!(start.elapsed(), S * 3, "at once");
    member(&set, 1).ready.store(true, Relaxed);
    assert!(set.is_available());
    assert_eq!(acquire(&set).await, Ok(addr(1)));
}

// proves: BRK-2
#[tokio::test(start_paused = true)]
async fn who_waits_looks_again_when_a_member_may_resume() {
    let set = set(Balancing::default());
    let start = Instant::now();
    set.apply(&known([(1, 0)]), |endpoint| {
        let (ready, withdrawn) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Fake { endpoint, ready, resumes: Some(start + S), withdrawn })
    });
    assert_eq!(acquire(&set).await, Ok(addr(1)));
    assert_eq!(start.elapsed(), S);
}

// proves: BAL-11
#[tokio::test(start_paused = true)]
async fn a_set_known_to_be_empty_is_not_waited_for_while_there_are_others() {
    let set = set(Balancing::default());
    assert!(set.is_available(), "nothing is known yet");
    fill(&set, [(1, 0)], true);
    let gone = member(&set, 1);
    fill(&set, [], true);
    assert!(!set.is_available() && gone.withdrawn.load(Relaxed));
    fill(&set, [(2, 0)], false);
    assert!(set.is_available(), "it may become ready");
    assert_eq!(set.count(), Count { ready: 0, pending: 1 });
}

/// The members that may be taken, the obvious way.
fn allowed(ready: &[u8], tried: &[u8]) -> Vec<u8> {
    let but = |left_out: &dyn Fn(u8) -> bool| -> Vec<u8> {
        ready.iter().copied().filter(|n| !left_out(*n)).collect()
    };
    let untried = but(&|n| tried.contains(&n));
    let but_last = but(&|n| tried.last() == Some(&n));
    [untried, but_last, ready.to_vec()].into_iter().find(|set| !set.is_empty()).unwrap_or_default()
}

/// All sequences of at most `left` of the three members.
fn sequences(left: usize) -> Vec<Vec<u8>> {
    let mut all = vec![vec![]];
    if left > 0 {
        for shorter in sequences(left - 1) {
            all.extend((1..=3).map(|n| [shorter.clone(), vec![n]].concat()));
        }
    }
    all
}

// proves: STACK-7
#[tokio::test(start_paused = true)]
async fn every_readiness_with_every_history() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastLoaded, Algorithm::RoundRobin] {
        let set = set(Balancing { algorithm, ..Balancing::default() });
        fill(&set, [(1, 0), (2, 0), (3, 0)], true);
        for up in 0..8_u8 {
            let ready: Vec<u8> = (1..=3).filter(|n| up & (1 << (n - 1)) != 0).collect();
            for n in 1..=3 {
                member(&set, n).ready.store(ready.contains(&n), Relaxed);
            }
            for history in sequences(4) {
                let mut tried = Tried::default();
                history.iter().for_each(|n| tried.note(addr(*n)));
                let allowed: Vec<_> = allowed(&ready, &history).into_iter().map(addr).collect();
                for _ in 0..8 {
                    let picked = set.pick(&(), &tried, Instant::now());
                    let picked = picked.map(|p| p.member.endpoint.addr);
                    let right = picked.map_or(allowed.is_empty(), |p| allowed.contains(&p));
                    assert!(right, "{algorithm:?}: {picked:?} of {ready:?} after {history:?}");
                }
            }
        }
    }
}

/// What may happen to a set with one member, and to a caller that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Up,
    Down,
    Leaves,
    Returns,
    /// One second of the three that callers may wait.
    Second,
}

// proves: STACK-7
#[tokio::test(start_paused = true)]
async fn every_order_of_readiness_discovery_and_time_ends_a_wait_rightly() {
    use Event::{Down, Leaves, Returns, Second, Up};
    let events = [Up, Down, Leaves, Returns, Second];
    for number in 0..events.len().pow(5) {
        let order: Vec<Event> =
            (0..5).map(|place| events[number / events.len().pow(place) % events.len()]).collect();
        let set = set(Balancing::default());
        fill(&set, [(1, 0)], false);
        let waiting = {
            let set = set.clone();
            tokio::spawn(async move { acquire(&set).await })
        };
        tokio::task::yield_now().await;
        // The obvious model: who waits is served at the first moment at which a member is there and ready,
        // and fails when three seconds have passed before.
        let (mut there, mut ready, mut passed, mut served) = (true, false, 0, None);
        for event in &order {
            match event {
                Up | Down => ready = *event == Up,
                Leaves => (there, ready) = (false, false),
                Returns if there => {}
                Returns => (there, ready) = (true, false),
                Second => passed += 1,
            }
            match event {
                Leaves => fill(&set, [], false),
                Returns => fill(&set, [(1, 0)], false),
                Second => tokio::time::sleep(S).await,
                Up | Down => {
                    if let Some(member) = there.then(|| member(&set, 1)) {
                        member.ready.store(ready, Relaxed);
                        if ready {
                            set.signals().gate.ready();
                        }
                        set.signals().changed.notify_waiters();
                    } else {
                        ready = false;
                    }
                }
            }
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            if served.is_none() && there && ready {
                served = Some(true);
            } else if served.is_none() && passed == 3 {
                served = Some(false);
            }
            assert_eq!(waiting.is_finished(), served.is_some(), "{event:?} of {order:?}");
        }
        if let Some(served) = served {
            assert_eq!(waiting.await.unwrap().is_ok(), served, "{order:?}");
        } else {
            waiting.abort();
        }
    }
}
