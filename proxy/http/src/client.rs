//! # Endpoint clients
//!
//! Job: send requests to one endpoint over the right connection: one shared HTTP/2 connection, or a pool
//! of HTTP/1 connections; reconnect with backoff.
//! May touch: byte streams that a [`Connect`] opens. Must not touch: sockets, TLS, the choice of endpoint.
//! Callers: the balancer.

mod h1;
mod h2;
mod h2_link;

use self::{h1::Pool, h2_link::Link};
use crate::{Body, error::Error, headers, observe::ObserveEndpoint, orig_proto};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Version};
use mesh_model::{
    endpoint::{Endpoint, Http2Params, KeepAlive, ProtocolHint},
    transport::SessionProtocol,
};
use mesh_stack::{backoff::Backoff, gate::Gate, io::BoxedIo};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Opens connections to endpoints: TCP, TLS and transport header, under one deadline.
pub trait Connect: Send + Sync + 'static {
    /// A connection that carries `protocol`.
    fn connect(
        &self,
        endpoint: &Endpoint,
        protocol: SessionProtocol,
    ) -> BoxFuture<'static, Result<BoxedIo, ConnectFailure>>;
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// Nothing came to be in time.
    #[error("connect timed out after {0:?}")]
    Timeout(Duration),
    /// The operating system, TLS, or the peer's identity.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A rule of this proxy forbids it.
    #[error("{0}")]
    Refused(String),
}

/// Settings of clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientParams {
    /// HTTP/2 settings where the endpoint's metadata has none.
    pub http2: Http2Params,
    /// PINGs toward meshed endpoints whose metadata has none: nothing hangs on a dead peer.
    pub mesh_keep_alive: KeepAlive,
    /// Waits between attempts to reconnect.
    pub backoff: Backoff,
    /// While requests wait, an attempt starts at least this often: a peer that is back is found by the
    /// first who needs it, however long it was away.
    pub demand_interval: Duration,
    /// Idle HTTP/1 connections kept per endpoint and authority.
    pub http1_max_idle: usize,
    /// How long.
    pub http1_idle_timeout: Duration,
    /// How long an HTTP/2 connection is kept without a stream.
    pub http2_idle_timeout: Duration,
    /// A connection that is older takes no new request.
    pub max_age: Duration,
}

impl Default for ClientParams {
    fn default() -> Self {
        Self {
            http2: Http2Params {
                keep_alive: None,
                initial_stream_window: Some(65_535),
                initial_connection_window: Some(1 << 20),
            },
            mesh_keep_alive: KeepAlive {
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(3),
                while_idle: true,
            },
            backoff: Backoff::OUTBOUND,
            demand_interval: Duration::from_millis(300),
            http1_max_idle: 10_000,
            http1_idle_timeout: Duration::from_secs(3),
            http2_idle_timeout: Duration::from_secs(120),
            max_age: Duration::from_secs(3600),
        }
    }
}

/// A request that failed, and whether the peer can have seen it.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: Error,
    /// The peer has not processed the request: it may be sent elsewhere.
    pub(crate) unprocessed: bool,
}

/// What the clients of one balancer share.
pub(crate) struct Shared {
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) params: ClientParams,
    /// Told when a client becomes ready or fails to.
    pub(crate) changed: Arc<Notify>,
    pub(crate) gate: Arc<Gate>,
    /// Whether an endpoint that refuses is tried again in the background. Not where it is the only one:
    /// then each request tries for itself.
    pub(crate) recovers: bool,
}

/// The client of one endpoint.
pub(crate) struct EndpointClient {
    pub(crate) endpoint: Endpoint,
    pub(crate) observe: Arc<dyn ObserveEndpoint>,
    shared: Arc<Shared>,
    link: Link,
    pool: Pool,
    pool_down: AtomicBool,
    stop: CancellationToken,
}

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Http1,
    Http2,
}

/// Whether a client can take a request now.
#[derive(Clone, Debug)]
pub(crate) enum Readiness {
    Ready,
    /// An attempt to connect is under way.
    Pending,
    /// The last attempt failed so; the next waits for its time.
    Down(Arc<ConnectFailure>),
}

impl EndpointClient {
    pub(crate) fn new(
        endpoint: Endpoint,
        observe: Arc<dyn ObserveEndpoint>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let pool = Pool::new(&shared.params);
        Arc::new(Self {
            endpoint,
            observe,
            shared,
            link: Link::default(),
            pool,
            pool_down: AtomicBool::new(false),
            stop: CancellationToken::new(),
        })
    }

    /// Which connection this request takes to this endpoint.
    pub(crate) fn lane(&self, request: &LaneOf) -> Lane {
        match (request.upgrade, self.endpoint.metadata.hint) {
            (true, _) => Lane::Http1,
            (false, ProtocolHint::Http2) => Lane::Http2,
            (false, _) if request.version == Version::HTTP_2 => Lane::Http2,
            (false, _) => Lane::Http1,
        }
    }

    /// Whether the lane can take a request. Starts what makes it ready.
    pub(crate) fn readiness(self: &Arc<Self>, lane: Lane) -> Readiness {
        match lane {
            Lane::Http2 => self.link.readiness(self),
            Lane::Http1 if self.pool_down.load(Ordering::Relaxed) => {
                self.pool.failure().map_or(Readiness::Ready, Readiness::Down)
            }
            Lane::Http1 => Readiness::Ready,
        }
    }

    /// What the last attempt to connect met, if it failed.
    pub(crate) fn failure(&self, lane: Lane) -> Option<Arc<ConnectFailure>> {
        match lane {
            Lane::Http1 => self.pool.failure(),
            Lane::Http2 => self.link.failure(),
        }
    }

    /// Whether it seems able to take requests; changes nothing.
    pub(crate) fn is_ready(&self) -> bool {
        match self.endpoint.metadata.hint {
            ProtocolHint::Http2 => self.link.is_ready(),
            ProtocolHint::Unknown | ProtocolHint::Opaque => {
                !self.pool_down.load(Ordering::Relaxed) && self.link.failure().is_none()
            }
        }
    }

    /// A request wants this endpoint: reconnect soon.
    pub(crate) fn demand(&self) {
        self.link.demand();
        self.pool.demand();
    }

    /// The endpoint is said to be well again: forget the backoff.
    pub(crate) fn reset_backoff(&self) {
        self.link.reset();
        if self.pool_down.load(Ordering::Relaxed) {
            self.pool.reset();
        }
    }

    /// The endpoint has been withdrawn: requests under way finish, and the connection is probed at
    /// once, so that they do not hang on a peer that is gone.
    pub(crate) fn withdraw(&self) {
        self.stop.cancel();
        self.link.withdraw();
        self.pool.close();
    }

    /// Sends a request, and leaves an empty one in its place: handed down by value it would be moved at each step, and every
    /// future on its way would have room for it.
    pub(crate) async fn send(
        self: &Arc<Self>,
        lane: Lane,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let meshed = self.endpoint.metadata.tls.is_some();
        let mut response = match lane {
            Lane::Http1 => self.send_http1(request).await?,
            Lane::Http2 => self.send_http2(request).await?,
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            && response.version() != Version::HTTP_2
        {
            headers::strip_connection(response.headers_mut());
        }
        strip_proxy_headers(&mut response, meshed);
        Ok(response)
    }

    async fn send_http2(
        self: &Arc<Self>,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let version = request.version();
        if version != Version::HTTP_2 {
            orig_proto::upgrade_request(request);
        }
        let sent = self.link.send(self, request).await;
        if version == Version::HTTP_2 {
            return sent;
        }
        match sent {
            Ok(mut response) => {
                orig_proto::upgrade_response(&mut response, version);
                Ok(response)
            }
            Err(SendError { error: Error::H2(h2), unprocessed }) if h2.is_reset() => {
                let reason = h2.reason().unwrap_or(::h2::Reason::INTERNAL_ERROR);
                Err(SendError { error: Error::OrigProtoReset(reason), unprocessed })
            }
            Err(error) => Err(error),
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let sent = self.pool.send(&self.shared, &self.endpoint, request).await;
        if let Err(SendError { error: Error::Connect(failure), .. }) = &sent {
            self.pool_failed(failure.clone());
        }
        sent
    }

    /// Marks HTTP/1 as down and tries to connect until it works again.
    fn pool_failed(self: &Arc<Self>, failure: Arc<ConnectFailure>) {
        if !self.shared.recovers {
            return;
        }
        self.pool.failed(failure);
        if self.pool_down.swap(true, Ordering::AcqRel) {
            return;
        }
        let client = self.clone();
        tokio::spawn(async move {
            let stop = client.stop.clone();
            let probe = client.pool.recover(&client.shared, &client.endpoint);
            if stop.run_until_cancelled(probe).await.is_some() {
                client.pool_down.store(false, Ordering::Release);
                client.shared.gate.ready();
                client.shared.changed.notify_waiters();
            }
        });
    }

    fn http2_params(&self) -> Http2Params {
        let (own, default) = (self.endpoint.metadata.http2, self.shared.params.http2);
        let meshed = self.endpoint.metadata.tls.is_some();
        Http2Params {
            keep_alive: own
                .keep_alive
                .or(default.keep_alive)
                .or(meshed.then_some(self.shared.params.mesh_keep_alive)),
            initial_stream_window: own.initial_stream_window.or(default.initial_stream_window),
            initial_connection_window: own
                .initial_connection_window
                .or(default.initial_connection_window),
        }
    }
}

/// What decides on a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneOf {
    version: Version,
    upgrade: bool,
}

impl LaneOf {
    pub(crate) fn request<B>(request: &Request<B>) -> Self {
        Self { version: request.version(), upgrade: headers::wants_upgrade(request) }
    }
}

impl SendError {
    pub(crate) fn unprocessed(error: impl Into<Error>) -> Self {
        Self { error: error.into(), unprocessed: true }
    }

    pub(crate) fn processed(error: impl Into<Error>) -> Self {
        Self { error: error.into(), unprocessed: false }
    }
}

/// What a peer proxy says of its own failure is for this proxy, not for the application.
fn strip_proxy_headers(response: &mut Response<Body>, meshed: bool) {
    let fields = response.headers_mut();
    if !headers::any_of_mesh(fields) {
        return;
    }
    if let Some(reason) = fields.remove(headers::PROXY_ERROR).filter(|_| meshed) {
        tracing::info!(reason = %String::from_utf8_lossy(reason.as_bytes()), "the peer's proxy failed");
    }
    if fields.remove(headers::PROXY_CONNECTION).is_some_and(|v| v == "close") && meshed {
        response.extensions_mut().insert(PeerAsksToClose);
    }
}

/// The peer's proxy asked to close the application's connection.
#[derive(Clone, Copy, Debug)]
pub struct PeerAsksToClose;
