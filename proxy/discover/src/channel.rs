//! # A channel to a control-plane service
//!
//! Job: one HTTP/2 connection to one of a service's addresses, made when needed, made again when it
//! breaks, with pings so that a dead peer is noticed.
//! May touch: connections that [`Dial`] opens, timers. Must not touch: sockets, DNS, TLS.
//! Callers: the clients in this crate.

use futures::future::BoxFuture;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_stack::io::BoxedIo;
use std::{
    fmt, io,
    sync::Arc,
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
}

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
        Self(Arc::new(Shared {
            dial,
            authority: authority.into(),
            slot: Mutex::default(),
            ups: watch::channel(0).0,
            runtime,
        }))
    }

    /// The authority as a URI for generated clients.
    pub(crate) fn origin(&self) -> http::Uri {
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
        let mut slot = self.0.slot.lock().await;
        if let Some(sender) = slot.sender.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
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
                self.0.ups.send_modify(|n| *n += 1);
                Ok(sender)
            }
            Err(cause) => {
                let reason: Arc<str> = cause.to_string().into();
                slot.failed = Some((Instant::now(), reason.clone()));
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
        let authority = self.0.authority.clone();
        self.0.runtime.spawn(async move {
            match connection.await {
                Ok(()) => tracing::debug!(%authority, "control-plane connection closed"),
                Err(error) => tracing::debug!(%authority, %error, "control-plane connection lost"),
            }
        });
        Ok(sender)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.0.authority).finish()
    }
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = ChannelError;
    type Future = BoxFuture<'static, Result<Self::Response, ChannelError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move {
            let mut sender = channel.sender().await?;
            let failed =
                |source| ChannelError::Http { authority: channel.0.authority.clone(), source };
            sender.ready().await.map_err(failed)?;
            sender.send_request(request).await.map_err(failed)
        })
    }
}
