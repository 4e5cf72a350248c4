//! # A small HTTP server
//!
//! Job: serve hyper services over any listener: deadlines for headers, a bound on connections, drain.
//! May touch: sockets that its caller bound, or any byte stream. Must not touch: routing, TLS.
//! Callers: `admin`, webhooks, test servers.

use crate::drain;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};

/// The response of small servers: a whole body in memory.
pub type SmallResponse = Response<Full<Bytes>>;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for the head of a request (HTTP/1).
    pub header_timeout: Duration,
    /// Most connections at once; more wait in the kernel's backlog.
    pub connections: usize,
}

impl Default for Limits {
    /// 15 s for headers, 256 connections.
    fn default() -> Self {
        Self { header_timeout: Duration::from_secs(15), connections: 256 }
    }
}

/// Accepts connections and serves each with `handler` until the drain starts; then listens no more and
/// lets open requests finish.
pub async fn serve<H, F>(listener: TcpListener, limits: Limits, drain: drain::Watch, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = SmallResponse> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let stop = drain.clone().signaled();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            _ = &mut stop => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "Accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (handler, drain) = (handler.clone(), drain.clone());
        tokio::spawn(async move {
            connection(stream, limits, drain, handler).await;
            drop(slot);
        });
    }
}

/// Serves one connection, HTTP/1 or HTTP/2, until it ends or the drain has finished its requests.
pub async fn connection<IO, H, F>(io: IO, limits: Limits, drain: drain::Watch, handler: H)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = SmallResponse> + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _held = drain.signaled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "Connection ended");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, slot))
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
