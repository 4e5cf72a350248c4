//! # Balancer
//!
//! Job: send each request to one of a changing set of endpoints: choose one that is ready and not broken,
//! wait for one for a bounded time, try another if the first has not seen the request; take what responses
//! say of their endpoint.
//! May touch: endpoint clients. Must not touch: discovery streams, routes. Callers: outbound, inbound's
//! client, the gateway, control-plane channels.

mod peer;
mod verdict;

#[cfg(test)]
mod tests;

use self::{
    peer::Peer,
    verdict::{Judge, Judging, Verdict},
};
use crate::{
    Body,
    accrual::Circuit,
    body::Replay,
    client::{ClientParams, Connect, EndpointClient, LaneOf, SendError, Shared},
    error::Error,
    observe::{Observe, ObserveResponse},
};
use http::{Request, Response, request::Parts};
use mesh_model::{
    balance::{Accrual, Balancing},
    endpoint::{Endpoint, EndpointSet},
};
use mesh_stack::{
    balance::{Picked, Set, SetParams, Signals, Unready},
    tried::Tried,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Settings of a balancer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalanceParams {
    /// Settings of its clients.
    pub client: ClientParams,
    /// Which endpoint is preferred.
    pub balancing: Balancing,
    /// When an endpoint is broken; `None`: never.
    pub accrual: Option<Accrual>,
    /// Requests that may wait for an endpoint.
    pub queue_capacity: usize,
    /// How long they may wait before all fail at once.
    pub failfast: Duration,
}

/// How often a request that no peer has seen is sent again.
const RESENDS: usize = 3;

impl Default for BalanceParams {
    fn default() -> Self {
        Self {
            client: ClientParams::default(),
            balancing: Balancing::default(),
            accrual: None,
            queue_capacity: 10_000,
            failfast: Duration::from_secs(3),
        }
    }
}

/// Sends requests to the endpoints of one destination. Clones share everything.
#[derive(Clone)]
pub struct Balancer {
    core: Arc<Core>,
    _stop: Arc<DropGuard>,
}

struct Core {
    shared: Arc<Shared>,
    peers: Arc<Set<Peer>>,
    circuit: Option<Arc<Circuit>>,
    judge: Judge,
    mode: Mode,
}

/// What happens when nothing is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Wait: another endpoint may become ready.
    Balance,
    /// Tell why the only endpoint is not.
    Forward,
}

impl Balancer {
    /// Over a set that changes; `view` tells the set from what is watched, or `None` to keep the last.
    /// Endpoints that leave finish what they have; those whose metadata changes reconnect. When the
    /// sender is gone, the last set keeps serving.
    pub fn new<T: Send + Sync + 'static>(
        endpoints: watch::Receiver<T>,
        view: impl Fn(&T) -> Option<EndpointSet> + Send + 'static,
        connect: Arc<dyn Connect>,
        observe: Arc<dyn Observe>,
        params: BalanceParams,
    ) -> Self {
        let core = Core::new(connect, &*observe, params, Mode::Balance);
        let stop = CancellationToken::new();
        let follow = follow(core.clone(), endpoints, view, observe);
        tokio::spawn(end_with(stop.clone(), core.clone(), follow));
        Self { core, _stop: Arc::new(stop.drop_guard()) }
    }

    /// To one endpoint. A failure to connect fails the requests that wait for it.
    pub fn forward(
        endpoint: Endpoint,
        connect: Arc<dyn Connect>,
        observe: &dyn Observe,
        params: BalanceParams,
    ) -> Self {
        let core = Core::new(connect, observe, params, Mode::Forward);
        let only = EndpointSet::Known([(endpoint.addr, endpoint.metadata)].into());
        core.apply(&only, observe);
        let stop = CancellationToken::new();
        tokio::spawn(end_with(stop.clone(), core.clone(), std::future::pending()));
        Self { core, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Whether requests may be sent here: false while it fails fast or has no endpoint, so that another
    /// backend is taken.
    pub fn is_available(&self) -> bool {
        self.core.peers.is_available()
    }

    /// The endpoints.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.core.peers.addresses()
    }

    /// Sends a request; `prepare` may change it for the endpoint that was chosen.
    ///
    /// # Errors
    /// When no endpoint became ready, or the chosen one failed after it may have seen the request.
    pub fn call(
        &self,
        request: Request<Body>,
        prepare: impl Fn(&Endpoint, &mut Request<Body>) -> Result<(), Error> + Send + Sync,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let whole = Whole::of(request, &self.core.judge);
        async move { self.core.send(whole, &mut Tried::default(), prepare).await }
    }

    /// As [`Self::call`], for a request that may have been elsewhere before: it goes to an endpoint that it
    /// has not tried if one is ready, and `tried` learns where it goes.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_tried(
        &self,
        request: Request<Body>,
        tried: &mut Tried,
        prepare: impl Fn(&Endpoint, &mut Request<Body>) -> Result<(), Error> + Send + Sync,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        self.core.send(Whole::of(request, &self.core.judge), tried, prepare)
    }
}

/// Who observes one request at its endpoint, if anybody does.
type Observer = Option<Box<dyn ObserveResponse>>;

/// A request that can be sent more than once.
struct Whole {
    head: Parts,
    replay: Replay,
    lane_of: LaneOf,
    judging: Judging,
}

impl Core {
    /// Sends a request to one endpoint after another, until one has seen it.
    async fn send(
        &self,
        mut whole: Whole,
        tried: &mut Tried,
        prepare: impl Fn(&Endpoint, &mut Request<Body>) -> Result<(), Error> + Send + Sync,
    ) -> Result<Response<Body>, Error> {
        let mut resends = 0;
        loop {
            let Picked { member: peer, pending } = self.acquire(&whole.lane_of, tried).await?;
            self.shared.gate.ready();
            let Ok(ticket) = peer.admit() else { continue };
            let mut verdict = Verdict::new(whole.judging, pending, ticket);
            let (client, addr) = (&peer.client, peer.client.endpoint.addr);
            tried.note(addr);
            let (observer, mut request) =
                whole.attempt(client, &prepare).map_err(|e| e.at_endpoint(addr))?;
            match client.send(client.lane(&whole.lane_of), &mut request).await {
                Ok(response) => {
                    whole.replay.settle();
                    verdict.head(&response);
                    return Ok(watched(response, verdict, observer));
                }
                Err(SendError { error, unprocessed }) => {
                    if unprocessed && resends < RESENDS && self.resends(&whole.replay, &error) {
                        resends += 1;
                        tracing::debug!(%addr, %error, "sending again");
                        continue;
                    }
                    if !unprocessed {
                        verdict.failed();
                    }
                    if let Some(observer) = observer {
                        observer.failed(&error);
                    }
                    return Err(error.at_endpoint(addr));
                }
            }
        }
    }

    fn new(
        connect: Arc<dyn Connect>,
        observe: &dyn Observe,
        params: BalanceParams,
        mode: Mode,
    ) -> Arc<Self> {
        let meter = observe.meter();
        let signals = Signals::new(params.failfast, &meter);
        let shared = Shared {
            connect,
            params: params.client,
            changed: signals.changed.clone(),
            gate: signals.gate.clone(),
            recovers: mode == Mode::Balance,
        };
        let set = SetParams::requests(&params.balancing, params.queue_capacity, params.failfast);
        let circuit = params.accrual.map(|rules| Circuit::new(rules, signals.changed.clone()));
        Arc::new(Self {
            shared: Arc::new(shared),
            peers: Set::new(set, signals, meter),
            judge: Judge::new(params.balancing.penalty, circuit.is_some()),
            circuit,
            mode,
        })
    }

    /// An endpoint that is ready, waiting for one if need be; another than those tried if there is one.
    async fn acquire(&self, of: &LaneOf, tried: &Tried) -> Result<Picked<Peer>, Error> {
        let hopeless = |peer: &Arc<Peer>| match self.mode {
            Mode::Balance => None,
            Mode::Forward => peer.hopeless(of),
        };
        self.peers.acquire(of, tried, hopeless).await.map_err(|unready| match unready {
            Unready::Full(full) => full.into(),
            Unready::Hopeless(error) => error,
            Unready::FailFast(failfast) => match self.peers.find(|peer| peer.failure(of)) {
                None => failfast.into(),
                // What the last attempt to connect met.
                Some((addr, failure)) => Error::from(failfast).at(failure).at_endpoint(addr),
            },
        })
    }

    /// Whether a request that was not seen by its endpoint goes to another.
    fn resends(&self, replay: &Replay, error: &Error) -> bool {
        let refused = matches!(error.root(), Error::Connect(_));
        replay.is_whole() && !(refused && self.mode == Mode::Forward)
    }

    fn apply(&self, set: &EndpointSet, observe: &dyn Observe) {
        self.peers.apply(set, |endpoint| {
            let observe = observe.endpoint(&endpoint);
            let breaker = self.circuit.as_ref().map(Circuit::breaker);
            Arc::new(Peer::new(endpoint, observe, self.shared.clone(), breaker))
        });
    }
}

impl Whole {
    fn of(request: Request<Body>, judge: &Judge) -> Self {
        let lane_of = LaneOf::request(&request);
        let judging = judge.request(request.headers());
        let (head, body) = request.into_parts();
        Self { head, replay: Replay::new(body), lane_of, judging }
    }

    /// The request for one endpoint, and who observes it there.
    fn attempt(
        &mut self,
        to: &EndpointClient,
        prepare: impl Fn(&Endpoint, &mut Request<Body>) -> Result<(), Error>,
    ) -> Result<(Observer, Request<Body>), Error> {
        // The copy stays: it has no room for headers that the next hop needs.
        let copy = self.head.clone();
        let head = std::mem::replace(&mut self.head, copy);
        let mut request = Request::from_parts(head, self.replay.attempt());
        prepare(&to.endpoint, &mut request)?;
        Ok((to.observe.request(&request), request))
    }
}

/// Follows the set while the balancer lives.
async fn follow<T>(
    core: Arc<Core>,
    mut endpoints: watch::Receiver<T>,
    view: impl Fn(&T) -> Option<EndpointSet>,
    observe: Arc<dyn Observe>,
) {
    loop {
        let set = view(&endpoints.borrow_and_update());
        if let Some(set) = set {
            core.apply(&set, &*observe);
        }
        if endpoints.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Runs `work` until the balancer is dropped, then lets its clients go.
async fn end_with(stop: CancellationToken, core: Arc<Core>, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
    core.peers.clear();
}

/// Lets the observer and the verdict watch the rest of the response.
fn watched(response: Response<Body>, verdict: Verdict, observer: Observer) -> Response<Body> {
    let response = match observer {
        Some(observer) => observer.respond(response),
        None => response,
    };
    response.map(|body| body.observed(verdict))
}
