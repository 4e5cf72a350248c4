//! # A channel to a control-plane service
//!
//! Job: one HTTP/2 connection to one of a service's addresses, made when needed, made again when it
//! breaks, with pings so that a dead peer is noticed.
//! May touch: connections that [`Dial`] opens, timers. Must not touch: sockets, DNS, TLS, a metrics library.
//! Callers: the clients in this crate.

use futures::future::BoxFuture;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_http::{client::ConnectFailure, observe::ObserveResponse};
use mesh_stack::{
    io::BoxedIo,
    meter::{Count, Endpoints, Meter, Unmetered, Update, Waiting},
};
use std::{
    fmt, io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    time::Instant,
};
use tonic::body::Body;

/// Opens connections to a service. The implementation resolves, connects and secures, and picks among
/// addresses so that callers spread; each call is a fresh look-up.
pub trait Dial: Send + Sync + 'static {
    /// A new connection, ready for HTTP/2. Bounded in time by the implementation or by
    /// [`CONNECT_TIMEOUT`], whichever is less.
    fn dial(&self) -> BoxFuture<'static, io::Result<BoxedIo>>;
}

/// Longest time for a connection to a control-plane service to come up, resolution included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between pings, also without streams.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a ping's answer.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Who is told of what a channel does. Shared by the channels to one service.
#[derive(Clone)]
pub struct Watchers {
    /// Of each call.
    pub calls: Arc<dyn ObserveCalls>,
    /// Of waits for the connection, and whether it is up. A failed attempt shuts the gate.
    pub meter: Arc<dyn Meter>,
}

/// Observes calls.
pub trait ObserveCalls: Send + Sync + 'static {
    /// A call goes out. `None` if it is not to be observed.
    fn call(&self) -> Option<Box<dyn ObserveResponse>>;
}

/// A channel. Clones share the connection.
#[derive(Clone)]
pub struct Channel(Arc<Shared>);

struct Shared {
    dial: Arc<dyn Dial>,
    authority: Arc<str>,
    slot: Mutex<Slot>,
    /// Counts connections that came up.
    ups: watch::Sender<u64>,
    runtime: Handle,
    watchers: Watchers,
    link: Arc<Link>,
}

/// What is known of the connection without waiting for it.
#[derive(Default)]
struct Link(AtomicU8);

const UNUSED: u8 = 0;
const UP: u8 = 1;
const LOST: u8 = 2;
/// Lost, and the last attempt failed.
const FAILED: u8 = 3;

#[derive(Default)]
struct Slot {
    sender: Option<http2::SendRequest<Body>>,
    failed: Option<(Instant, Arc<str>)>,
}

/// Why a request did not go out.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// There is no connection.
    #[error("cannot reach {authority}: {reason}")]
    Connect {
        /// The service.
        authority: Arc<str>,
        /// The cause, shared by all who waited for the same attempt.
        reason: Arc<str>,
    },
    /// The connection failed during the request.
    #[error("the connection to {authority} failed: {source}")]
    Http {
        /// The service.
        authority: Arc<str>,
        /// The cause.
        source: hyper::Error,
    },
}

impl Channel {
    /// A channel to `authority` (`host:port` as configured, sent as `:authority`). Nothing is dialled yet.
    /// Connections and the streams of its clients run on `runtime`.
    pub fn new(authority: &str, dial: Arc<dyn Dial>, runtime: Handle) -> Self {
        Self::watched(authority, dial, runtime, Watchers::default())
    }

    /// As [`Self::new`], telling watchers.
    pub fn watched(
        authority: &str,
        dial: Arc<dyn Dial>,
        runtime: Handle,
        watchers: Watchers,
    ) -> Self {
        let link = Arc::new(Link::default());
        // Weaker than `Arc<dyn>`, or the meter would keep the channel.
        let counted: Weak<Link> = Arc::downgrade(&link);
        watchers.meter.watch(counted);
        Self(Arc::new(Shared {
            dial,
            authority: authority.into(),
            slot: Mutex::default(),
            ups: watch::channel(0).0,
            runtime,
            watchers,
            link,
        }))
    }

    /// The authority as a URI for generated clients.
    pub fn origin(&self) -> http::Uri {
        http::Uri::builder()
            .scheme("http")
            .authority(&*self.0.authority)
            .path_and_query("/")
            .build()
            .unwrap_or_else(|_| http::Uri::from_static("http://control-plane/"))
    }

    /// The runtime that streams run on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Changes when a connection comes up: a reason not to sit out a backoff.
    pub(crate) fn ups(&self) -> watch::Receiver<u64> {
        self.0.ups.subscribe()
    }

    /// As if a connection had come up.
    #[cfg(test)]
    pub(crate) fn bounce(&self) {
        self.0.ups.send_modify(|n| *n += 1);
    }

    async fn sender(&self) -> Result<http2::SendRequest<Body>, ChannelError> {
        let asked = Instant::now();
        let meter = &self.0.watchers.meter;
        if let Some(sender) = self.0.slot.try_lock().ok().and_then(|slot| slot.open()) {
            meter.passed();
            return Ok(sender);
        }
        let _waiting = Waiting::begin(meter);
        let mut slot = self.0.slot.lock().await;
        if let Some(sender) = slot.open() {
            return Ok(sender);
        }
        let error = |reason: Arc<str>| ChannelError::Connect {
            authority: self.0.authority.clone(),
            reason,
        };
        // Whoever waited while an attempt failed shares its failure, instead of queueing up attempts.
        if let Some((at, reason)) = slot.failed.as_ref().filter(|(at, _)| *at >= asked) {
            tracing::trace!(since = ?at.elapsed(), "sharing a failed attempt");
            return Err(error(reason.clone()));
        }
        match self.connect().await {
            Ok(sender) => {
                *slot = Slot { sender: Some(sender.clone()), failed: None };
                self.0.link.up(&**meter);
                self.0.ups.send_modify(|n| *n += 1);
                Ok(sender)
            }
            Err(cause) => {
                let reason: Arc<str> = cause.to_string().into();
                slot.failed = Some((Instant::now(), reason.clone()));
                self.0.link.failed(&**meter);
                Err(error(reason))
            }
        }
    }

    async fn connect(&self) -> io::Result<http2::SendRequest<Body>> {
        let attempt = async {
            let io = self.0.dial.dial().await?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            builder.handshake(TokioIo::new(io)).await.map_err(io::Error::other)
        };
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "connecting took too long");
        let (sender, connection) =
            tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.map_err(|_| timed_out())??;
        let (authority, link) = (self.0.authority.clone(), self.0.link.clone());
        self.0.runtime.spawn(async move {
            let ended = connection.await;
            link.lost();
            match ended {
                Ok(()) => tracing::debug!(%authority, "control-plane connection closed"),
                Err(error) => tracing::debug!(%authority, %error, "control-plane connection lost"),
            }
        });
        Ok(sender)
    }
}

impl Slot {
    fn open(&self) -> Option<http2::SendRequest<Body>> {
        self.sender.as_ref().filter(|sender| !sender.is_closed()).cloned()
    }
}

impl Link {
    fn up(&self, meter: &dyn Meter) {
        match self.0.swap(UP, Relaxed) {
            UNUSED => meter.updated(Update::Reset),
            FAILED => meter.gate(true),
            _ => {}
        }
    }

    fn failed(&self, meter: &dyn Meter) {
        if self.0.swap(FAILED, Relaxed) != FAILED {
            meter.gate(false);
        }
    }

    fn lost(&self) {
        // A later connection may be up already.
        let _ = self.0.compare_exchange(UP, LOST, Relaxed, Relaxed);
    }
}

impl Endpoints for Link {
    fn count(&self) -> Count {
        match self.0.load(Relaxed) {
            UNUSED => Count::default(),
            UP => Count { ready: 1, pending: 0 },
            _ => Count { ready: 0, pending: 1 },
        }
    }
}

impl Default for Watchers {
    fn default() -> Self {
        Self { calls: Arc::new(Unwatched), meter: Arc::new(Unmetered) }
    }
}

struct Unwatched;

impl ObserveCalls for Unwatched {
    fn call(&self) -> Option<Box<dyn ObserveResponse>> {
        None
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.0.authority).finish()
    }
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<mesh_http::Body>;
    type Error = ChannelError;
    type Future = BoxFuture<'static, Result<Self::Response, ChannelError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move {
            let observer = channel.0.watchers.calls.call();
            let result = channel.send(request).await;
            match (result, observer) {
                (Ok(response), Some(observer)) => Ok(observer.respond(response)),
                (Err(error), Some(observer)) => {
                    observer.failed(&error.told());
                    Err(error)
                }
                (result, None) => result,
            }
        })
    }
}

impl Channel {
    async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<mesh_http::Body>, ChannelError> {
        let mut sender = self.sender().await?;
        let failed = |source| ChannelError::Http { authority: self.0.authority.clone(), source };
        sender.ready().await.map_err(failed)?;
        let response = sender.send_request(request).await.map_err(failed)?;
        Ok(response.map(mesh_http::Body::from))
    }
}

impl ChannelError {
    /// As an error of HTTP traffic, for whoever counts these.
    fn told(&self) -> mesh_http::Error {
        let failure = ConnectFailure::Io(io::Error::other(self.to_string()));
        mesh_http::Error::Connect(Arc::new(failure))
    }
}
