//! # The server
//!
//! Job: HTTPS for the webhook, with a certificate that is read again when it changes, and the Namespaces
//! that admissions need to know.
//! May touch: the socket, mounted files, the Kubernetes API. Callers: the controller binary.

mod namespaces;
mod tls;

use std::{sync::Arc, time::Duration};

use kube::{Api, Client, runtime::watcher};
use mesh_process::{drain, http_server, ready::Readiness};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) use namespaces::{Namespaces, annotations as namespace_annotations};

use crate::{InjectError, args::Config, events::Events, metrics::Metrics, webhook::Webhook};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause between attempts to read the certificate at the start.
const PAUSE: Duration = Duration::from_millis(250);
/// Most connections at once; the API server keeps a few.
const CONNECTIONS: usize = 256;

/// Serves the webhook until the drain. Ready once the certificate is there and the Namespaces are known.
///
/// # Errors
/// When the port cannot be bound or metrics cannot be registered.
pub async fn run(
    config: Config,
    client: Client,
    registry: &Registry,
    readiness: &Readiness,
    drain: drain::Watch,
) -> Result<(), InjectError> {
    let metrics = Metrics::register(registry)?;
    let certificate = readiness.block("the webhook's certificate");
    let addr = config.context.bind(config.addr);
    let listener =
        TcpListener::bind(addr).await.map_err(|source| InjectError::Listen { addr, source })?;
    let namespaces = Arc::new(Mutex::new(Namespaces::default()));
    let watch = mesh_cluster::watch::spawn(
        Api::all(client.clone()),
        watcher::Config::default(),
        namespaces.clone(),
        readiness.block("the Namespaces"),
    );
    let mut tls = tls::Reloading::new(config.context.path(&config.tls));
    let stop = drain.clone().signaled();
    tokio::pin!(stop);
    loop {
        match tls.current().await {
            Ok(_) => break,
            Err(error) => tracing::warn!(%error, "Waiting for the certificate"),
        }
        tokio::select! {
            _ = &mut stop => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    drop(certificate);
    tracing::info!(%addr, "Serving admissions");
    let webhook =
        Arc::new(Webhook::new(config, client.clone(), namespaces, metrics, Events::new(client)));
    accept(listener, tls, webhook, drain).await;
    watch.abort();
    Ok(())
}

async fn accept(
    listener: TcpListener,
    mut tls: tls::Reloading,
    webhook: Arc<Webhook>,
    drain: drain::Watch,
) {
    let stop = drain.clone().signaled();
    tokio::pin!(stop);
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let slot = tokio::select! {
            _ = &mut stop => return,
            slot = slots.clone().acquire_owned() => slot,
        };
        let stream = tokio::select! {
            _ = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match stream {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "Accept failed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let server = match tls.current().await {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(%error, "Connection refused");
                continue;
            }
        };
        let (webhook, drain) = (webhook.clone(), drain.clone());
        tokio::spawn(async move {
            let handshake = TlsAcceptor::from(server).accept(stream);
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                Ok(Ok(io)) => {
                    let answer = move |request| {
                        let webhook = webhook.clone();
                        async move { webhook.answer(request).await }
                    };
                    let limits = http_server::Limits::default();
                    http_server::connection(io, limits, drain, answer).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
            drop(slot);
        });
    }
}
