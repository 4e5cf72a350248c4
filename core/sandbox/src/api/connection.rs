//! # Connections
//!
//! Job: accepts TLS connections, learns the client's certificate, serves HTTP/1.1 and HTTP/2 on them.
//! May touch: sockets. Must not touch: the store, what a request means.
//! Callers: `api`.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{
    authn, serve,
    shared::{Shared, stopped},
};

/// A client that does not finish its handshake in this time is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests in flight at a stop have this long.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves connections until told to stop, then lets requests in flight finish.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let tls = TlsAcceptor::from(shared.pki.tls.clone());
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((tcp, _)) => {
                connections.spawn(connection(tcp, tls.clone(), shared.clone(), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(
    tcp: TcpStream,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "the client is gone");
        return;
    }
    let stream = match timeout(HANDSHAKE, tls.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificate = authn::certificate_user(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (shared, certificate) = (shared.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(serve::handle(shared, certificate, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            // Watches end by themselves at a stop; what still runs after the drain time is cut off.
            timeout(DRAIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}
