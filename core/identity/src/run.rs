//! # The running service
//!
//! Job: put the parts together and serve until the drain.
//! May touch: the port, mounted files. Must not touch: flags, the environment. Callers: `controller`.

use crate::{
    args::Config,
    certify::Authority,
    error::Error,
    events::Events,
    issuer::IssuerStore,
    metrics::Metrics,
    own::SelfCertify,
    review::Reviewer,
    serve::IdentityService,
    watch::{self, Watched},
};
use kube::Client;
use mesh_meshtls::{
    Credentials, Params,
    certifier::{self, Clock, Renewal, Token},
    control::{ControlAcceptor, ControlConfig},
};
use mesh_model::identity::Identity;
use mesh_pki::{Key, TrustBundle};
use mesh_process::{
    context::PodContext,
    drain,
    ready::{Readiness, ReadyToken},
};
use prometheus::Registry;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tonic::transport::Server;

/// What the process gives to the service.
pub struct Parts {
    /// Access to the API server.
    pub client: Client,
    /// Where the process runs.
    pub pod: PodContext,
    /// Held back until there is an issuer.
    pub readiness: Readiness,
    /// Where metrics go.
    pub registry: Registry,
    /// Ends the service.
    pub drain: drain::Watch,
    /// Plaintext is accepted from the Pod's own address (a sidecar stands in front).
    pub plaintext_from_own: bool,
}

/// Opens the port and serves until the drain.
///
/// # Errors
/// When the anchors cannot be read, TokenReviews may not be created, or the port cannot be opened.
pub async fn run(config: Config, parts: Parts) -> Result<(), Error> {
    // From the first step on: readiness never comes before the port.
    let ready = parts.readiness.block("an issuer");
    let addr = parts.pod.bind(config.addr);
    let listener =
        TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })?;
    tracing::info!(%addr, "Identity service listens");
    serve(listener, config, parts, ready).await
}

/// Serves on an open port until the drain.
///
/// # Errors
/// As [`run`].
pub async fn serve_on(listener: TcpListener, config: Config, parts: Parts) -> Result<(), Error> {
    let ready = parts.readiness.block("an issuer");
    serve(listener, config, parts, ready).await
}

async fn serve(
    listener: TcpListener,
    config: Config,
    parts: Parts,
    ready: ReadyToken,
) -> Result<(), Error> {
    let anchors = read_anchors(&parts.pod.path(&config.anchors))?;
    let store = IssuerStore::new(anchors);
    let metrics = Metrics::register(&parts.registry, &store)?;
    let reviewer = Reviewer::new(parts.client.clone());
    may_review(&reviewer).await?;
    let events = Events::spawn(parts.client.clone(), &config.controller_namespace);
    let watched = Watched {
        namespace: config.controller_namespace.clone(),
        folder: parts.pod.path(&config.issuer_dir),
        scheme: config.scheme,
        store: store.clone(),
        events: events.clone(),
    };
    watch::spawn(parts.client, watched);
    let credentials = own_credentials(&config, &store)?;
    let mut issuer = store.subscribe();
    tokio::spawn(async move {
        let _held = ready;
        // The sender lives in the store, which the service holds.
        let _ = issuer.wait_for(Option::is_some).await;
    });
    let authority = Authority {
        controller_namespace: config.controller_namespace,
        trust_domain: config.trust_domain,
        leaf: config.leaf,
    };
    let service =
        IdentityService { authority: Arc::new(authority), store, reviewer, events, metrics };
    let control = ControlConfig {
        require_client: false,
        plaintext_from_own: parts.plaintext_from_own,
        ..ControlConfig::default()
    };
    let incoming =
        ControlAcceptor::new(listener, credentials, control).incoming(parts.drain.clone());
    let stop = parts.drain.signaled();
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .timeout(REQUEST)
        .add_service(service.server())
        .serve_with_incoming_shutdown(incoming, async move {
            drop(stop.await);
        })
        .await?;
    Ok(())
}

/// The right is asked for until the API server answers: at the start of a cluster it may come later.
async fn may_review(reviewer: &Reviewer) -> Result<(), Error> {
    let started = tokio::time::Instant::now();
    loop {
        match reviewer.may_review().await {
            Err(Error::Cluster(error)) if error.is_transient() && started.elapsed() < PATIENCE => {
                tracing::warn!(%error, "Asking again for the right to review tokens");
                tokio::time::sleep(RETRY).await;
            }
            decided => return decided,
        }
    }
}

fn read_anchors(path: &Path) -> Result<TrustBundle, Error> {
    let fail = |reason: String| Error::Anchors { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    TrustBundle::from_pem(&pem).map_err(|e| fail(e.to_string()))
}

fn own_credentials(config: &Config, store: &IssuerStore) -> Result<Credentials, Error> {
    let own = |e: &dyn std::fmt::Display| Error::Own(e.to_string());
    let local = config.own_identity().map_err(|e| own(&e))?;
    let Identity::Dns(server_name) = local.clone() else {
        return Err(Error::Own("it is not a DNS name".into()));
    };
    let key = Key::generate().map_err(|e| own(&e))?;
    let anchors = store.anchors().clone();
    let params = Params { local, server_name, anchors, key, csr: None };
    let credentials = Credentials::new(params).map_err(|e| own(&e))?;
    tokio::spawn(certifier::run(
        credentials.clone(),
        SelfCertify::new(store.clone(), config.leaf),
        Token::None,
        Renewal::default(),
        Clock::system(),
        (),
    ));
    Ok(credentials)
}

const PING: Duration = Duration::from_secs(10);
/// Longest Certify call: two token reviews and a signature.
const REQUEST: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(250);
