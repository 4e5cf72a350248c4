//! # Balancer
//!
//! Job: send each request to one of a changing set of endpoints: power of two choices over those that are
//! ready, by peak-EWMA load; wait for one for a bounded time; try another if the first has not seen the
//! request.
//! May touch: endpoint clients. Must not touch: discovery streams, routes. Callers: outbound, inbound's
//! client, the gateway, control-plane channels.

use crate::{
    Body,
    body::{End, ObserveBody, Replay},
    client::{ClientParams, Connect, EndpointClient, Lane, LaneOf, Readiness, SendError, Shared},
    error::Error,
    observe::{Observe, ObserveResponse},
};
use arc_swap::ArcSwap;
use http::{Request, Response};
use mesh_model::{
    endpoint::{Endpoint, EndpointSet},
    outbound::PeakEwma,
};
use mesh_stack::{
    ewma::{Load, Pending},
    gate::{FailFast, Gate},
    p2c,
    queue::Queue,
};
use std::{collections::HashMap, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Settings of a balancer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalanceParams {
    /// Settings of its clients.
    pub client: ClientParams,
    /// Load estimate.
    pub ewma: PeakEwma,
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
            ewma: PeakEwma::default(),
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
    members: ArcSwap<Vec<Arc<EndpointClient>>>,
    queue: Queue,
    mode: Mode,
}

/// An endpoint, the connection to take, and the place in its load.
type Picked = (Arc<EndpointClient>, Lane, Pending);

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
        let core = Core::new(connect, params, Mode::Balance);
        let stop = CancellationToken::new();
        let follow = follow(core.clone(), endpoints, view, observe, params.ewma);
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
        let core = Core::new(connect, params, Mode::Forward);
        let observe = observe.endpoint(&endpoint);
        let load = Arc::new(Load::new(params.ewma, Instant::now()));
        let client = EndpointClient::new(endpoint, load, observe, core.shared.clone());
        core.members.store(Arc::new(vec![client]));
        let stop = CancellationToken::new();
        tokio::spawn(end_with(stop.clone(), core.clone(), std::future::pending()));
        Self { core, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Whether requests may be sent here: false while the gate is shut, so that another backend is taken.
    pub fn is_available(&self) -> bool {
        !self.core.shared.gate.is_shut()
    }

    /// Endpoints, and how many of them can take a request of HTTP/2 now.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.core.members.load().iter().map(|m| m.endpoint.addr).collect()
    }

    /// Forgets all backoffs: somebody knows that the endpoints are well again.
    pub fn reset_backoff(&self) {
        self.core.members.load().iter().for_each(|m| m.reset_backoff());
    }

    /// Sends a request; `head` may change it for the endpoint that was chosen.
    ///
    /// # Errors
    /// When no endpoint became ready, or the chosen one failed after it may have seen the request.
    pub async fn call(
        &self,
        request: Request<Body>,
        prepare: impl Fn(&Endpoint, &mut Request<Body>) -> Result<(), Error> + Send + Sync,
    ) -> Result<Response<Body>, Error> {
        let lane_of = LaneOf::request(&request);
        let (parts, body) = request.into_parts();
        let replay = Replay::new(body);
        let mut resends = 0;
        let mut refused_by = None;
        loop {
            let avoid = refused_by.as_ref();
            let (client, lane, pending) = self.core.pick(&lane_of, avoid).await?;
            let addr = client.endpoint.addr;
            let mut request = Request::from_parts(parts.clone(), replay.attempt());
            prepare(&client.endpoint, &mut request).map_err(|e| e.at_endpoint(addr))?;
            let observer = client.observe.request(&request);
            match client.send(lane, request).await {
                Ok(response) => {
                    replay.settle();
                    return Ok(watched(response, pending, observer));
                }
                Err(SendError { error, unprocessed }) => {
                    if unprocessed && resends < RESENDS && self.core.resends(&replay, &error) {
                        resends += 1;
                        tracing::debug!(%addr, %error, "sending again");
                        refused_by = Some(client);
                        continue;
                    }
                    if let Some(observer) = observer {
                        observer.failed(&error);
                    }
                    return Err(error.at_endpoint(addr));
                }
            }
        }
    }
}

impl Core {
    fn new(connect: Arc<dyn Connect>, params: BalanceParams, mode: Mode) -> Arc<Self> {
        let shared = Shared {
            connect,
            params: params.client,
            changed: Notify::new(),
            gate: Gate::new(params.failfast),
            recovers: mode == Mode::Balance,
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            members: ArcSwap::default(),
            queue: Queue::new(params.queue_capacity),
            mode,
        })
    }

    /// An endpoint that is ready, waiting for one if need be; another than `avoid` if there is one.
    async fn pick(
        &self,
        of: &LaneOf,
        avoid: Option<&Arc<EndpointClient>>,
    ) -> Result<Picked, Error> {
        if let Some(found) = self.try_pick(of, avoid) {
            return Ok(found);
        }
        let _place = self.queue.enter()?;
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            // Registered before looking again, so that no change is missed in between.
            changed.as_mut().enable();
            if let Some(found) = self.try_pick(of, avoid) {
                return Ok(found);
            }
            self.why_not(of)?;
            let deadline =
                self.shared.gate.unready(Instant::now()).map_err(|e| self.reason(of, e))?;
            let _ = tokio::time::timeout_at(deadline, changed).await;
        }
    }

    fn try_pick(&self, of: &LaneOf, avoid: Option<&Arc<EndpointClient>>) -> Option<Picked> {
        let members = self.members.load();
        let now = Instant::now();
        let choose = |avoid: Option<&Arc<EndpointClient>>| {
            let ready = |m: &Arc<EndpointClient>| {
                avoid.is_none_or(|a| !Arc::ptr_eq(a, m)) && takes(m, m.lane(of))
            };
            p2c::pick(&members, &mut rand::rng(), ready, |m| m.load.value(now))
        };
        let client = choose(avoid).or_else(|| avoid.and_then(|_| choose(None)))?;
        Some((client.clone(), client.lane(of), client.load.begin(now)))
    }

    /// Nothing is ready: asks the endpoints to hurry, and fails where waiting is of no use.
    fn why_not(&self, of: &LaneOf) -> Result<(), Error> {
        let members = self.members.load();
        for member in members.iter() {
            member.demand();
            if let (Mode::Forward, Readiness::Down(failure)) =
                (self.mode, member.readiness(member.lane(of)))
            {
                return Err(Error::Connect(failure).at_endpoint(member.endpoint.addr));
            }
        }
        Ok(())
    }

    /// Fail-fast, with what the last attempt to connect met.
    fn reason(&self, of: &LaneOf, failfast: FailFast) -> Error {
        let members = self.members.load();
        let failed = members.iter().find_map(|m| Some((m.endpoint.addr, m.failure(m.lane(of))?)));
        match failed {
            None => failfast.into(),
            Some((addr, failure)) => Error::from(failfast).at(failure).at_endpoint(addr),
        }
    }

    /// Whether a request that was not seen by its endpoint goes to another.
    fn resends(&self, replay: &Replay, error: &Error) -> bool {
        let refused = matches!(error.root(), Error::Connect(_));
        replay.is_whole() && !(refused && self.mode == Mode::Forward)
    }

    /// Brings the members in line with the set: those whose address and metadata stay keep their
    /// connections and load.
    fn apply(&self, set: &EndpointSet, observe: &dyn Observe, ewma: PeakEwma) {
        let (before, now) = (self.members.load_full(), Instant::now());
        let mut kept: HashMap<SocketAddr, &Arc<EndpointClient>> =
            before.iter().map(|m| (m.endpoint.addr, m)).collect();
        let members = set
            .iter()
            .map(|(addr, metadata)| match kept.get(addr) {
                Some(member) if member.endpoint.metadata == *metadata => {
                    let member = (*member).clone();
                    kept.remove(addr);
                    member
                }
                _ => {
                    let endpoint = Endpoint { addr: *addr, metadata: metadata.clone() };
                    let load = Arc::new(Load::new(ewma, now));
                    let observer = observe.endpoint(&endpoint);
                    EndpointClient::new(endpoint, load, observer, self.shared.clone())
                }
            })
            .collect();
        self.members.store(Arc::new(members));
        kept.values().for_each(|member| member.withdraw());
        self.shared.changed.notify_waiters();
    }
}

fn takes(member: &Arc<EndpointClient>, lane: Lane) -> bool {
    matches!(member.readiness(lane), Readiness::Ready)
}

/// Follows the set while the balancer lives.
async fn follow<T>(
    core: Arc<Core>,
    mut endpoints: watch::Receiver<T>,
    view: impl Fn(&T) -> Option<EndpointSet>,
    observe: Arc<dyn Observe>,
    ewma: PeakEwma,
) {
    loop {
        let set = view(&endpoints.borrow_and_update());
        if let Some(set) = set {
            core.apply(&set, &*observe, ewma);
        }
        if endpoints.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Runs `work` until the balancer is dropped, then lets its clients go.
async fn end_with(stop: CancellationToken, core: Arc<Core>, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
    core.members.swap(Arc::default()).iter().for_each(|member| member.withdraw());
}

/// Ends the load sample at the first data of the response, and lets the observer watch the rest.
fn watched(
    response: Response<Body>,
    pending: Pending,
    observer: Option<Box<dyn ObserveResponse>>,
) -> Response<Body> {
    let response = match observer {
        Some(observer) => observer.respond(response),
        None => response,
    };
    response.map(|body| body.observed(Sample(Some(pending))))
}

struct Sample(Option<Pending>);

impl Sample {
    fn complete(&mut self) {
        if let Some(pending) = self.0.take() {
            pending.complete(Instant::now());
        }
    }
}

impl ObserveBody for Sample {
    fn data(&mut self, _: usize) {
        self.complete();
    }

    fn end(&mut self, _: End<'_>) {
        self.complete();
    }
}
