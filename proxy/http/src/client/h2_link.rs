//! # Link
//!
//! Job: keep one HTTP/2 connection to an endpoint: connect when first needed, again when it is lost,
//! with backoff, sooner when requests wait.
//! May touch: connections of one endpoint. Must not touch: other endpoints. Callers: the endpoint client.

use super::{ClientParams, ConnectFailure, EndpointClient, Readiness, SendError, h2};
use crate::{Body, error::Error};
use http::{Request, Response};
use mesh_model::transport::SessionProtocol;
use mesh_stack::backoff::Attempts;
use parking_lot::Mutex;
use rand::RngExt;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// A connection that lived this long was a success; one that was closed earlier counts as a failed attempt,
/// so that a peer which accepts and hangs up is not dialled in a loop.
const PROVEN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Link {
    state: Mutex<State>,
    demand: Notify,
    reset: Notify,
    lost: Notify,
    /// What the last attempt met, if it failed.
    failure: Mutex<Option<Arc<ConnectFailure>>>,
}

#[derive(Default)]
enum State {
    /// Never needed so far.
    #[default]
    Idle,
    Connecting,
    Ready(h2::Handle),
    /// The last attempt failed then.
    Down(Arc<ConnectFailure>, Instant),
    /// Withdrawn. Holds the last connection for requests that were on their way to it.
    Withdrawn(Option<h2::Handle>),
}

/// Why a connection is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Lost,
    Old,
    Idle,
}

impl Link {
    pub(crate) fn readiness(&self, client: &Arc<EndpointClient>) -> Readiness {
        let mut state = self.state.lock();
        match &*state {
            State::Ready(_) => Readiness::Ready,
            State::Connecting | State::Withdrawn(_) => Readiness::Pending,
            // An old failure says little: a new attempt is due, and tells more.
            State::Down(failure, at) if at.elapsed() < client.shared.params.demand_interval => {
                Readiness::Down(failure.clone())
            }
            State::Down(..) => Readiness::Pending,
            State::Idle => {
                *state = State::Connecting;
                tokio::spawn(run(client.clone()));
                Readiness::Pending
            }
        }
    }

    /// Whether there is a connection.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(*self.state.lock(), State::Ready(_))
    }

    pub(crate) fn failure(&self) -> Option<Arc<ConnectFailure>> {
        self.failure.lock().clone()
    }

    pub(crate) fn demand(&self) {
        self.demand.notify_one();
    }

    /// Ends the wait for the next attempt, also if the attempt before it is still under way.
    pub(crate) fn reset(&self) {
        if matches!(*self.state.lock(), State::Connecting | State::Down(..)) {
            self.reset.notify_one();
        }
    }

    pub(crate) fn withdraw(&self) {
        let mut state = self.state.lock();
        let last = match std::mem::take(&mut *state) {
            State::Ready(handle) => {
                handle.poke();
                Some(handle)
            }
            _ => None,
        };
        *state = State::Withdrawn(last);
    }

    pub(crate) async fn send(
        &self,
        client: &EndpointClient,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let handle = match &*self.state.lock() {
            State::Ready(handle) | State::Withdrawn(Some(handle)) => handle.clone(),
            State::Down(failure, _) => {
                return Err(SendError::unprocessed(Error::Connect(failure.clone())));
            }
            State::Idle | State::Connecting | State::Withdrawn(None) => {
                return Err(SendError::unprocessed(Error::LoadShed));
            }
        };
        let sent = handle.send(request).await;
        if let Err(SendError { unprocessed: true, error: Error::H2(error) }) = &sent
            && !error.is_reset()
        {
            // GOAWAY, or the connection is gone: what is open on it finishes, new requests need another.
            self.lose();
            client.shared.changed.notify_waiters();
        }
        sent
    }

    /// Stops using the connection.
    fn lose(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Ready(_)) {
            *state = State::Connecting;
            self.lost.notify_one();
        }
    }

    /// Waits until the connection has ended, or takes no more requests.
    async fn until_lost(&self, mut end: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut end => return,
                // A notice may be left over from a connection before this one.
                () = self.lost.notified() => {
                    if !matches!(*self.state.lock(), State::Ready(_)) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the connection is not to be used any more: what is open on it then finishes.
    async fn used_up(&self, params: &ClientParams, end: oneshot::Receiver<()>) -> Ended {
        // At unlike times, so that connections of one time do not end at one time.
        let age = params.max_age.mul_f64(rand::rng().random_range(0.9..1.0));
        tokio::select! {
            () = self.until_lost(end) => Ended::Lost,
            () = tokio::time::sleep(age) => Ended::Old,
            () = self.until_idle(params.http2_idle_timeout) => Ended::Idle,
        }
    }

    /// Waits until the connection has been without a stream at three looks in a row.
    async fn until_idle(&self, timeout: Duration) {
        const LOOKS: u32 = 3;
        let mut idle = 0;
        while idle < LOOKS {
            tokio::time::sleep(timeout / LOOKS).await;
            let is_idle = match &*self.state.lock() {
                State::Ready(handle) => handle.take_idle(),
                _ => false,
            };
            idle = if is_idle { idle + 1 } else { 0 };
        }
    }

    /// Moves on, unless the endpoint was withdrawn meanwhile.
    fn set(&self, next: State) -> bool {
        let mut state = self.state.lock();
        if matches!(*state, State::Withdrawn(_)) {
            return false;
        }
        *state = next;
        true
    }
}

/// Connects, and connects again, until the endpoint is withdrawn.
async fn run(client: Arc<EndpointClient>) {
    let (link, shared, stop) = (&client.link, &client.shared, &client.stop);
    let mut attempts = shared.params.backoff.attempts();
    loop {
        let Some(outcome) = stop.run_until_cancelled(connect(&client)).await else { return };
        match outcome {
            Ok((handle, driver)) => {
                let since = Instant::now();
                let (ended, end) = oneshot::channel();
                tokio::spawn(drive(driver, client.endpoint.addr, ended));
                if !link.set(State::Ready(handle)) {
                    return;
                }
                *link.failure.lock() = None;
                shared.gate.ready();
                shared.changed.notify_waiters();
                let Some(end) = stop.run_until_cancelled(link.used_up(&shared.params, end)).await
                else {
                    return;
                };
                let next = if end == Ended::Idle { State::Idle } else { State::Connecting };
                // Without a stream for long: the next request connects anew.
                if !link.set(next) || end == Ended::Idle {
                    return;
                }
                if end == Ended::Old || since.elapsed() >= PROVEN {
                    attempts.reset();
                    continue;
                }
            }
            Err(failure) => {
                tracing::debug!(addr = %client.endpoint.addr, %failure, "cannot connect");
                let failure = Arc::new(failure);
                *link.failure.lock() = Some(failure.clone());
                if !link.set(State::Down(failure, Instant::now())) {
                    return;
                }
                shared.changed.notify_waiters();
            }
        }
        wait(&client, &mut attempts).await;
        if !link.set(State::Connecting) {
            return;
        }
    }
}

async fn drive(driver: h2::Driver, addr: SocketAddr, _ended: oneshot::Sender<()>) {
    if let Err(error) = driver.run().await {
        tracing::debug!(%addr, %error, "an HTTP/2 connection ended");
    }
}

async fn connect(client: &EndpointClient) -> Result<(h2::Handle, h2::Driver), ConnectFailure> {
    let io = client.shared.connect.connect(&client.endpoint, SessionProtocol::Http2).await?;
    h2::handshake(io, client.http2_params())
        .await
        .map_err(|e| ConnectFailure::Io(std::io::Error::other(e)))
}

/// Waits for the next attempt: the backoff's time, or less if a request wants the endpoint or somebody
/// knows that it is well again.
async fn wait(client: &EndpointClient, attempts: &mut Attempts) {
    let (link, since) = (&client.link, Instant::now());
    let demanded = async {
        link.demand.notified().await;
        tokio::time::sleep_until(since + client.shared.params.demand_interval).await;
    };
    let reset = tokio::select! {
        () = tokio::time::sleep(attempts.next_delay()) => false,
        () = demanded => false,
        () = link.reset.notified() => true,
        () = client.stop.cancelled() => false,
    };
    if reset {
        attempts.reset();
    }
}
