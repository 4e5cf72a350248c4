//! # TCP balancer
//!
//! Job: choose an endpoint for a connection: the same two choices and load estimate as for HTTP, over
//! attempts to connect; established connections do not count.
//! May touch: endpoints, connections in the making. Must not touch: bytes. Callers: `tcp`.

use crate::{connect::Connector, error::TcpError};
use arc_swap::ArcSwap;
use mesh_http::{BalanceParams, client::ConnectFailure};
use mesh_model::endpoint::{Endpoint, EndpointSet};
use mesh_stack::{backoff::Attempts, ewma::Load, gate::Gate, io::BoxedIo, p2c, queue::Queue};
use parking_lot::Mutex;
use std::{pin::pin, sync::Arc};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) struct TcpBalancer {
    core: Arc<Core>,
    forward: bool,
    _follow: DropGuard,
}

struct Core {
    members: ArcSwap<Vec<Arc<Member>>>,
    changed: Notify,
    gate: Gate,
    queue: Queue,
    connector: Connector,
    params: BalanceParams,
}

struct Member {
    endpoint: Endpoint,
    load: Arc<Load>,
    health: Mutex<Health>,
}

struct Health {
    attempts: Attempts,
    /// Not before this time; attempts happen only when a connection wants one.
    resume: Option<Instant>,
}

impl TcpBalancer {
    pub(crate) fn new<T: Send + Sync + 'static>(
        endpoints: watch::Receiver<T>,
        view: impl Fn(&T) -> Option<EndpointSet> + Send + 'static,
        connector: Connector,
        params: BalanceParams,
    ) -> Self {
        let core = Arc::new(Core::new(connector, params));
        let stop = CancellationToken::new();
        let (follow, stopped) = (follow(core.clone(), endpoints, view), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(follow).await });
        Self { core, forward: false, _follow: stop.drop_guard() }
    }

    pub(crate) fn forward(endpoint: Endpoint, connector: Connector, params: BalanceParams) -> Self {
        let core = Arc::new(Core::new(connector, params));
        core.members.store(Arc::new(vec![core.member(endpoint)]));
        Self { core, forward: true, _follow: CancellationToken::new().drop_guard() }
    }

    pub(crate) fn is_available(&self) -> bool {
        !self.core.gate.is_shut()
    }

    pub(crate) fn reset_backoff(&self) {
        self.core.members.load().iter().for_each(|m| m.succeeded());
        self.core.changed.notify_waiters();
    }

    /// A connection to some endpoint, trying others while one fails and there is time.
    pub(crate) async fn connect(&self) -> Result<BoxedIo, TcpError> {
        let core = &*self.core;
        if self.forward {
            let member = core.members.load().first().cloned();
            let member = member.ok_or(TcpError::NoRoute)?;
            return core.attempt(&member).await;
        }
        let _place = core.queue.enter()?;
        loop {
            let mut changed = pin!(core.changed.notified());
            changed.as_mut().enable();
            if let Some(member) = core.pick() {
                match core.attempt(&member).await {
                    Ok(io) => return Ok(io),
                    Err(error) => tracing::debug!(%error, "trying another endpoint"),
                }
                core.gate.unready(Instant::now())?;
                continue;
            }
            let deadline = core.gate.unready(Instant::now())?;
            let until = core.next_resume().map_or(deadline, |resume| resume.min(deadline));
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }
}

impl Core {
    fn new(connector: Connector, params: BalanceParams) -> Self {
        Self {
            members: ArcSwap::default(),
            changed: Notify::new(),
            gate: Gate::new(params.failfast),
            queue: Queue::new(params.queue_capacity),
            connector,
            params,
        }
    }

    fn member(&self, endpoint: Endpoint) -> Arc<Member> {
        let attempts = self.params.client.backoff.attempts();
        Arc::new(Member {
            endpoint,
            load: Arc::new(Load::new(self.params.ewma, Instant::now())),
            health: Mutex::new(Health { attempts, resume: None }),
        })
    }

    fn pick(&self) -> Option<Arc<Member>> {
        let (members, now) = (self.members.load(), Instant::now());
        let ready = |m: &Arc<Member>| m.health.lock().resume.is_none_or(|resume| resume <= now);
        p2c::pick(&members, &mut rand::rng(), ready, |m| m.load.value(now)).cloned()
    }

    fn next_resume(&self) -> Option<Instant> {
        self.members.load().iter().filter_map(|m| m.health.lock().resume).min()
    }

    async fn attempt(&self, member: &Member) -> Result<BoxedIo, TcpError> {
        let pending = member.load.begin(Instant::now());
        match self.connector.open(&member.endpoint, None).await {
            Ok(io) => {
                pending.complete(Instant::now());
                member.succeeded();
                self.gate.ready();
                Ok(io)
            }
            Err(failure) => {
                member.failed(&self.params);
                Err(self.error(member, failure))
            }
        }
    }

    fn error(&self, member: &Member, failure: ConnectFailure) -> TcpError {
        TcpError::Connect { addr: member.endpoint.addr, failure: Arc::new(failure) }
    }

    /// Those whose address and metadata stay keep their load.
    fn apply(&self, set: &EndpointSet) {
        let before = self.members.load_full();
        let members = set
            .iter()
            .map(|(addr, metadata)| {
                let same =
                    |m: &&Arc<Member>| m.endpoint.addr == *addr && m.endpoint.metadata == *metadata;
                let new = || self.member(Endpoint { addr: *addr, metadata: metadata.clone() });
                before.iter().find(same).cloned().unwrap_or_else(new)
            })
            .collect();
        self.members.store(Arc::new(members));
        self.changed.notify_waiters();
    }
}

impl Member {
    fn succeeded(&self) {
        let mut health = self.health.lock();
        health.attempts.reset();
        health.resume = None;
    }

    /// Waits no longer than the demand interval: an attempt is made only when somebody wants it.
    fn failed(&self, params: &BalanceParams) {
        let mut health = self.health.lock();
        let delay = health.attempts.next_delay().min(params.client.demand_interval);
        health.resume = Some(Instant::now() + delay);
    }
}

async fn follow<T>(
    core: Arc<Core>,
    mut endpoints: watch::Receiver<T>,
    view: impl Fn(&T) -> Option<EndpointSet>,
) {
    loop {
        let set = view(&endpoints.borrow_and_update());
        if let Some(set) = set {
            core.apply(&set);
        }
        if endpoints.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
