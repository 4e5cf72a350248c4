//! # Leases
//!
//! Job: let one of several replicas do a piece of work, and say what it knows on the Lease.
//! May touch: one `coordination.k8s.io` Lease. Must not touch: the work.
//! Callers: the mirror (a Lease a Link), the policy status writer.
//!
//! The rule is client-go's: a Lease counts as free when its record has not changed for its duration by
//! the observer's own clock, or when it names no holder. A holder finds its own name and goes on at once.

use crate::{Error, apply::DEADLINE, within};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::{collections::BTreeMap, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// What is held, by whom, for how long.
#[derive(Clone, Debug)]
pub struct LeaseParams {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are: the Pod's name.
    pub identity: String,
    /// Labels of a Lease that we create.
    pub labels: BTreeMap<String, String>,
    /// How long others wait after our last sign.
    pub duration: Duration,
    /// How often the holder signs.
    pub renew: Duration,
    /// How often others look, and the holder tries again after a failure.
    pub retry: Duration,
}

impl LeaseParams {
    /// Duration 30 s, renewed every 10 s, tried every 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            labels: BTreeMap::new(),
            duration: Duration::from_secs(30),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// How long a sign lets us work: others may take over when they have seen none for `duration`; we stop before.
    fn hold(&self) -> Duration {
        self.duration.saturating_sub(2 * self.retry)
    }
}

/// Annotations to keep on the Lease while it is held; `None` removes one.
pub type Annotations = BTreeMap<String, Option<String>>;

/// A running candidate. Dropping it without [`Candidate::release`] keeps the Lease until it runs out.
#[derive(Debug)]
pub struct Candidate {
    /// Whether we hold the Lease.
    pub held: watch::Receiver<bool>,
    /// What to say on it; written at once when changed, while held.
    pub annotations: watch::Sender<Annotations>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Candidate {
    /// Stops, and gives the Lease back if it is held, so that another replica need not wait. Takes at
    /// most 3 s.
    pub async fn release(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(Duration::from_secs(3), &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if !*self.stop.borrow() {
            self.task.abort();
        }
    }
}

/// Starts to compete for the Lease.
pub fn spawn(client: Client, params: LeaseParams) -> Candidate {
    let (held_tx, held) = watch::channel(false);
    let (annotations, said) = watch::channel(Annotations::new());
    let (stop, stopped) = watch::channel(false);
    let api = Api::namespaced(client, &params.namespace);
    let task = tokio::spawn(
        Runner { api, params, held: held_tx, seen: Seen::default() }.run(said, stopped),
    );
    Candidate { held, annotations, stop, task }
}

struct Runner {
    api: Api<Lease>,
    params: LeaseParams,
    held: watch::Sender<bool>,
    seen: Seen,
}

impl Runner {
    async fn run(
        mut self,
        mut said: watch::Receiver<Annotations>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut current: Option<Lease> = None;
        let mut signed: Option<Instant> = None;
        loop {
            let annotations = said.borrow_and_update().clone();
            // Others may have seen a sign long before we are told that it was written.
            let begun = Instant::now();
            let limit = signed.map(|at| self.params.hold().saturating_sub(at.elapsed()));
            let attempt = self.attempt(&mut current, &annotations);
            let attempted = match limit {
                // It must end before others may take over.
                Some(limit) => match tokio::time::timeout(limit, attempt).await {
                    Ok(attempted) => attempted,
                    Err(_) => Err(Error::Deadline(limit)),
                },
                None => attempt.await,
            };
            let pause = match attempted {
                Ok(true) => {
                    signed = Some(begun);
                    self.held.send_if_modified(|held| !std::mem::replace(held, true));
                    self.params.renew
                }
                Ok(false) => {
                    signed = None;
                    self.lost("another replica holds it");
                    self.params.retry
                }
                Err(error) => {
                    current = None;
                    if signed.is_some_and(|at| at.elapsed() >= self.params.hold()) {
                        signed = None;
                        self.lost("it could not be renewed");
                    }
                    if !error.is_conflict() {
                        tracing::info!(lease = %self.params.name, %error, "lease not written, trying again");
                    }
                    if error.is_conflict() { Duration::from_millis(50) } else { self.params.retry }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = said.changed(), if signed.is_some() => {}
                // An error means that the Candidate is gone, and this task with it.
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        if signed.is_some() {
            self.lost("released");
            if let Err(error) = self.release(current).await {
                tracing::debug!(lease = %self.params.name, %error, "lease not released");
            }
        }
    }

    /// One look, and one write if the Lease is ours to write. `current` is the Lease as last written.
    async fn attempt(
        &mut self,
        current: &mut Option<Lease>,
        annotations: &Annotations,
    ) -> Result<bool, Error> {
        let found = match current.take() {
            Some(lease) => Some(lease),
            None => within(DEADLINE, self.api.get_opt(&self.params.name)).await?,
        };
        let now = Timestamp::now();
        let written = match found {
            None => {
                let lease = self.signed(Lease::default(), annotations, now, true);
                within(DEADLINE, self.api.create(&PostParams::default(), &lease)).await?
            }
            Some(lease) => {
                let mine = match self.seen.judge(&lease, &self.params, Instant::now()) {
                    Claim::Other => return Ok(false),
                    Claim::Mine => true,
                    Claim::Free => false,
                };
                let lease = self.signed(lease, annotations, now, !mine);
                let params = PostParams::default();
                within(DEADLINE, self.api.replace(&self.params.name, &params, &lease)).await?
            }
        };
        *current = Some(written);
        Ok(true)
    }

    fn signed(
        &self,
        mut lease: Lease,
        annotations: &Annotations,
        now: Timestamp,
        taken: bool,
    ) -> Lease {
        let mut spec = lease.spec.take().unwrap_or_default();
        if taken {
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        }
        spec.holder_identity = Some(self.params.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.params.duration.as_secs()).ok();
        spec.renew_time = Some(MicroTime(now));
        let meta = &mut lease.metadata;
        meta.name = Some(self.params.name.clone());
        meta.namespace = Some(self.params.namespace.clone());
        meta.managed_fields = None;
        if !self.params.labels.is_empty() {
            meta.labels.get_or_insert_default().extend(self.params.labels.clone());
        }
        let kept = meta.annotations.get_or_insert_default();
        for (key, value) in annotations {
            match value {
                Some(value) => drop(kept.insert(key.clone(), value.clone())),
                None => drop(kept.remove(key)),
            }
        }
        lease.spec = Some(spec);
        lease
    }

    async fn release(&self, current: Option<Lease>) -> Result<(), Error> {
        let Some(mut lease) = current else { return Ok(()) };
        let spec = lease.spec.take().unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..spec
        });
        let params = PostParams::default();
        within(Duration::from_secs(2), self.api.replace(&self.params.name, &params, &lease))
            .await?;
        Ok(())
    }

    fn lost(&self, why: &str) {
        if self.held.send_if_modified(|held| std::mem::replace(held, false)) {
            tracing::info!(lease = %self.params.name, why, "lease given up");
        }
    }
}

/// Whose a Lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Mine,
    Free,
    Other,
}

/// The last record seen of a Lease, and when it was first seen in that shape.
#[derive(Debug, Default)]
struct Seen {
    record: Option<(Option<String>, Option<MicroTime>)>,
    since: Option<Instant>,
}

impl Seen {
    fn judge(&mut self, lease: &Lease, params: &LeaseParams, now: Instant) -> Claim {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().filter(|h| !h.is_empty());
        match &holder {
            None => return Claim::Free,
            Some(holder) if *holder == params.identity => return Claim::Mine,
            Some(_) => {}
        }
        let record = (holder, spec.renew_time);
        if self.record.as_ref() != Some(&record) {
            self.record = Some(record);
            self.since = Some(now);
        }
        // A garbage duration must not keep the Lease for ever, nor make it free at once.
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30);
        let duration = Duration::from_secs(seconds.clamp(1, 300));
        match self.since {
            Some(since) if now - since >= duration => Claim::Free,
            _ => Claim::Other,
        }
    }
}

/// True if the Lease is held by anybody at `now`, as far as its own times tell; for displays.
pub fn is_held(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let named = spec.holder_identity.as_deref().is_some_and(|h| !h.is_empty());
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or(0));
    let fresh =
        spec.renew_time.as_ref().is_some_and(|t| now.as_second() - t.0.as_second() <= seconds);
    named && fresh
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::{
        future,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    fn lease(holder: &str, renewed: i64) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(30),
                renew_time: Timestamp::from_second(renewed).ok().map(MicroTime),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_is_free_after_its_duration_without_a_sign_and_mine_at_once() {
        let params = LeaseParams::new("ns", "l", "me");
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let rows = [
            (lease("other", 1), 0, Claim::Other),
            (lease("other", 1), 29, Claim::Other),
            (lease("other", 2), 29, Claim::Other),
            (lease("other", 2), 58, Claim::Other),
            (lease("other", 2), 59, Claim::Free),
            (lease("me", 2), 59, Claim::Mine),
            (lease("", 2), 59, Claim::Free),
            (Lease::default(), 0, Claim::Free),
        ];
        for (lease, second, expected) in rows {
            assert_eq!(seen.judge(&lease, &params, at(second)), expected, "{lease:?} at {second}");
        }
    }

    #[test]
    fn displays_go_by_the_leases_own_times() {
        let now = Timestamp::from_second(1000).unwrap();
        assert!(is_held(&lease("a", 980), now));
        assert!(!is_held(&lease("a", 900), now));
        assert!(!is_held(&lease("", 999), now));
    }

    /// Of one Lease: what an API server keeps, and when it was last written.
    type Kept = Arc<Mutex<(Option<serde_json::Value>, Option<Instant>)>>;

    /// An API server of one Lease whose n-th write is answered after `delays[n]`, and with all of these used
    /// up, hears nothing any more.
    fn slow(delays: &'static [u64]) -> (Client, Kept) {
        let kept = Kept::default();
        let (store, writes) = (kept.clone(), Arc::new(AtomicUsize::new(0)));
        let answer = move |request: http::Request<kube::client::Body>| {
            let (store, writes) = (store.clone(), writes.clone());
            async move {
                let reads = request.method() == http::Method::GET;
                let count = writes.fetch_add(usize::from(!reads), Ordering::Relaxed);
                let Some(delay) = delays.get(count) else { return future::pending().await };
                if !reads {
                    let written = request.into_body().collect_bytes().await.expect("a body");
                    let written = serde_json::from_slice(&written).expect("a Lease");
                    *store.lock() = (Some(written), Some(Instant::now()));
                    tokio::time::sleep(Duration::from_secs(*delay)).await;
                }
                let (status, body) = match &store.lock().0 {
                    Some(lease) => (200, lease.to_string()),
                    None => (404, r#"{"reason": "NotFound", "code": 404}"#.to_owned()),
                };
                let body = kube::client::Body::from(body.into_bytes());
                let response = http::Response::builder().status(status).body(body);
                Ok::<_, std::convert::Infallible>(response.expect("a response"))
            }
        };
        (Client::new(tower::service_fn(answer), "ns"), kept)
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_not_heard_stops_before_others_may_take_over() {
        for delays in [&[0][..], &[0, 0], &[9], &[0, 9]] {
            let (client, kept) = slow(delays);
            let mut candidate = spawn(client, LeaseParams::new("ns", "l", "me"));
            let patience = Duration::from_secs(600);
            for held in [true, false] {
                let seen = candidate.held.wait_for(|h| *h == held);
                tokio::time::timeout(patience, seen).await.expect("in time").expect("it runs");
            }
            let silent = kept.lock().1.expect("it was written").elapsed();
            assert!(silent < Duration::from_secs(30), "led for {silent:?} after {delays:?}");
        }
    }
}
