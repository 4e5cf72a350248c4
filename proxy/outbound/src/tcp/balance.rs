//! # TCP balancer
//!
//! Job: choose an endpoint for a connection, and try others while one refuses and there is time. The load of
//! an endpoint is the number of its open connections.
//! May touch: endpoints, connections in the making. Must not touch: bytes. Callers: `tcp`.

use crate::{connect::Connector, error::TcpError};
use mesh_http::{BalanceParams, client::ConnectFailure};
use mesh_model::endpoint::{Endpoint, EndpointSet};
use mesh_stack::{
    backoff::{Attempts, Backoff},
    balance::{Member, Picked, Set, SetParams, Signals, Unready},
    ewma::Pending,
    io::BoxedIo,
    meter::Meter,
    tried::Tried,
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) struct TcpBalancer {
    peers: Arc<Set<Peer>>,
    connector: Connector,
    forward: bool,
    _follow: DropGuard,
}

/// A connection to an endpoint, and its place in the endpoint's load: to be kept until the end.
pub(crate) struct Connected {
    pub(crate) io: BoxedIo,
    pub(crate) load: Pending,
}

struct Peer {
    endpoint: Endpoint,
    /// Attempts happen only when a connection wants one, and then at least this often.
    demand_interval: Duration,
    health: Mutex<Health>,
}

struct Health {
    attempts: Attempts,
    /// Not before this time.
    resume: Option<Instant>,
}

impl TcpBalancer {
    pub(crate) fn new<T: Send + Sync + 'static>(
        endpoints: watch::Receiver<T>,
        view: impl Fn(&T) -> Option<EndpointSet> + Send + 'static,
        connector: Connector,
        meter: Arc<dyn Meter>,
        params: BalanceParams,
    ) -> Self {
        let peers = set(meter, &params);
        let stop = CancellationToken::new();
        let (follow, stopped) = (follow(peers.clone(), endpoints, view, params), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(follow).await });
        Self { peers, connector, forward: false, _follow: stop.drop_guard() }
    }

    pub(crate) fn forward(
        endpoint: Endpoint,
        connector: Connector,
        meter: Arc<dyn Meter>,
        params: BalanceParams,
    ) -> Self {
        let peers = set(meter, &params);
        apply(&peers, &EndpointSet::Known([(endpoint.addr, endpoint.metadata)].into()), params);
        Self { peers, connector, forward: true, _follow: CancellationToken::new().drop_guard() }
    }

    pub(crate) fn is_available(&self) -> bool {
        self.peers.is_available()
    }

    /// A connection to some endpoint, trying others while one fails and there is time. The only endpoint of
    /// a forward is tried once, at once.
    pub(crate) async fn connect(&self) -> Result<Connected, TcpError> {
        if self.forward {
            self.peers.reset_backoff();
        }
        let mut tried = Tried::default();
        loop {
            let found = self.peers.acquire(&(), &tried, |_| None::<TcpError>).await;
            let Picked { member, pending } = found.map_err(|unready| match unready {
                Unready::FailFast(failfast) => failfast.into(),
                Unready::Full(full) => full.into(),
                Unready::Hopeless(error) => error,
            })?;
            tried.note(member.endpoint.addr);
            match self.connector.open(&member.endpoint, None).await {
                Ok(io) => {
                    member.succeeded();
                    self.peers.signals().gate.ready();
                    return Ok(Connected { io, load: pending });
                }
                Err(failure) => {
                    let error = error(&member, failure);
                    member.failed();
                    if self.forward {
                        return Err(error);
                    }
                    tracing::debug!(%error, "trying another endpoint");
                    self.peers.signals().gate.unready(Instant::now())?;
                }
            }
        }
    }
}

fn set(meter: Arc<dyn Meter>, params: &BalanceParams) -> Arc<Set<Peer>> {
    let signals = Signals::new(params.failfast, &meter);
    let connections =
        SetParams::connections(&params.balancing, params.queue_capacity, params.failfast);
    Set::new(connections, signals, meter)
}

fn apply(peers: &Set<Peer>, set: &EndpointSet, params: BalanceParams) {
    peers.apply(set, |endpoint| Arc::new(Peer::new(endpoint, params)));
}

fn error(peer: &Peer, failure: ConnectFailure) -> TcpError {
    TcpError::Connect { addr: peer.endpoint.addr, failure: Arc::new(failure) }
}

impl Peer {
    fn new(endpoint: Endpoint, params: BalanceParams) -> Self {
        let backoff: Backoff = params.client.backoff;
        let health = Mutex::new(Health { attempts: backoff.attempts(), resume: None });
        Self { endpoint, demand_interval: params.client.demand_interval, health }
    }

    fn succeeded(&self) {
        let mut health = self.health.lock();
        health.attempts.reset();
        health.resume = None;
    }

    fn failed(&self) {
        let mut health = self.health.lock();
        let delay = health.attempts.next_delay().min(self.demand_interval);
        health.resume = Some(Instant::now() + delay);
    }
}

impl Member for Peer {
    type Ask = ();

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn takes(self: &Arc<Self>, (): &(), now: Instant) -> bool {
        self.is_ready(now)
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.health.lock().resume.is_none_or(|resume| resume <= now)
    }

    fn resumes(&self) -> Option<Instant> {
        self.health.lock().resume
    }

    fn demand(&self) {}

    fn reset_backoff(&self) {
        self.succeeded();
    }

    fn withdraw(&self) {}
}

async fn follow<T>(
    peers: Arc<Set<Peer>>,
    mut endpoints: watch::Receiver<T>,
    view: impl Fn(&T) -> Option<EndpointSet>,
    params: BalanceParams,
) {
    loop {
        let set = view(&endpoints.borrow_and_update());
        if let Some(set) = set {
            apply(&peers, &set, params);
        }
        if endpoints.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::endpoint::{EndpointMetadata, EndpointUpdate};
    use mesh_stack::meter::Unmetered;

    // proves: BAL-15
    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_discovery_tells_of_again_is_tried_at_once() {
        let told = || {
            let metadata = Arc::new(EndpointMetadata::default());
            EndpointUpdate::Add(vec![Endpoint { addr: ([10, 0, 0, 1], 80).into(), metadata }])
        };
        let (params, mut endpoints) = (BalanceParams::default(), EndpointSet::default());
        let peers = set(Arc::new(Unmetered), &params);
        for between_two_looks in [false, true] {
            endpoints.apply(told());
            apply(&peers, &endpoints, params);
            let lost = peers.find(|peer| Some(peer.clone())).unwrap();
            lost.failed();
            let pick = || peers.pick(&(), &Tried::default(), Instant::now());
            apply(&peers, &endpoints, params);
            assert!(pick().is_none(), "nothing was told anew");
            let gone = endpoints.iter().map(|(addr, _)| *addr).collect();
            endpoints.apply(EndpointUpdate::Remove(gone));
            if !between_two_looks {
                apply(&peers, &endpoints, params);
            }
            endpoints.apply(told());
            apply(&peers, &endpoints, params);
            assert!(pick().is_some());
        }
    }
}
