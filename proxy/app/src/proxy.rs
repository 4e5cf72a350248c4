//! # The running proxy
//!
//! Job: wire what `start` has made: the admin thread (identity, discovery, admin server, signals) and the
//! workers; drain; end.
//! May touch: threads, signals. Must not touch: what connections carry. Callers: `run`.

use crate::{
    admin::Admin,
    configs,
    control::{Caller, Counted, ServiceDial},
    settings::Service,
    spans,
    start::{StartError, Started, leaf_file},
    worker::{self, GatewayParts, Parts},
};
use mesh_discover::{
    State, StreamLimits, channel::Channel, destination::DestinationClient, identity::CertifyClient,
    policy::PolicyClient,
};
use mesh_gateway::{GatewayMetrics, RememberingDiscovery, RememberingPolicies, View, keep_saved};
use mesh_inbound::{
    Inbound, Policies, PolicySource, ProfileSource, Profiles, access_log::AccessLog,
    gateway::NoGateway,
};
use mesh_meshtls::{
    Credentials,
    certifier::{self, Clock, Renewal, Token},
    store,
};
use mesh_model::{
    authority::{Authority, NameAddr},
    profile::Profile,
};
use mesh_net::listen::Listener;
use mesh_observe::{Build, ControlClient, Facts, IdentityMetrics, Metrics, TlsInfo};
use mesh_outbound::{ControlPlane, Discover, Entry, Profiled, Routing};
use mesh_process::{drain, metrics, ready::Readiness, shutdown, tasks};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

/// Some time after the certificate the control plane is connected, and the start is over: little of its code
/// is needed again.
const STARTED: Duration = Duration::from_secs(2);
/// How often a proxy without a certificate says so.
const WAITING: Duration = Duration::from_secs(15);

/// Runs until drained.
pub(crate) fn run(started: Started) -> Result<(), StartError> {
    let runtime = worker::runtime().map_err(StartError::Thread)?;
    // The thread that holds identity, discovery and admin stays free of traffic.
    let admin = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        let ended = runtime.block_on(supervise(started));
        runtime.shutdown_background();
        ended
    });
    let ended = admin.map_err(StartError::Thread)?.join();
    ended.unwrap_or_else(|_| Err(StartError::Thread(std::io::Error::other("it panicked"))))
}

async fn supervise(started: Started) -> Result<(), StartError> {
    let mut signals = shutdown::Signals::install().map_err(StartError::Thread)?;
    let metrics = Metrics::new(started.settings.retain_idle);
    let _facts = facts(&metrics);
    metrics.runtimes.add(Handle::current());
    if let Err(error) = metrics::register_process(metrics.foreign()) {
        tracing::warn!(%error, "No metrics of the process");
    }
    if let Err(error) = tasks::register_panics(metrics.foreign(), "proxy_task_panics_total") {
        tracing::warn!(%error, "No metric of panics");
    }
    let (asked, mut shutdown_asked) = mpsc::channel(1);
    let readiness = Readiness::new();
    let (signal, drain) = drain::channel();
    let (over, is_over) = watch::channel(false);
    let grace = started.settings.grace;

    identity(&started, &metrics, &readiness);
    let spans = spans::start(&started, &metrics);
    let parts = parts(&started, &metrics)?;
    let shutdown = started.settings.shutdown_endpoint.then_some(asked.clone());
    let admin = Admin::new(
        metrics.clone(),
        readiness.clone(),
        started.logs.clone(),
        shutdown,
        environment(),
    );
    serve_admin(&started, &parts, admin)?;
    let (ended, mut worker_ended) = mpsc::unbounded_channel();
    let workers = (0..started.settings.workers)
        .map(|n| worker::spawn(n, parts.clone(), drain.clone(), is_over.clone(), ended.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    drop((parts, drain));

    tokio::select! {
        // Its share of the connections would not be accepted any more: a new process does better.
        Some(worker) = worker_ended.recv() => return Err(StartError::Worker(worker)),
        cause = signals.recv() => tracing::info!(?cause, "Signal received; draining"),
        _ = shutdown_asked.recv() => tracing::info!("Shutdown requested; draining"),
    }
    readiness.set_draining();
    match signal.drain(grace).await {
        drain::Drained::Complete => tracing::info!("Drained"),
        drain::Drained::TimedOut => {
            tracing::warn!(?grace, "Connections left after the grace period")
        }
    }
    over.send_replace(true);
    for worker in workers {
        // A worker that panicked has logged it; the others must still be waited for.
        let _ = worker.join();
    }
    if let Some(spans) = spans {
        spans.finish().await;
    }
    Ok(())
}

/// The variables of this process, to be shown.
#[allow(clippy::disallowed_methods, reason = "they are shown, not read as settings")]
fn environment() -> Vec<(String, String)> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Keeps the certificate fresh, and a copy of it for the next life of this container.
fn identity(started: &Started, metrics: &Metrics, readiness: &Readiness) {
    let Started { settings, credentials, .. } = started;
    let service = &settings.control.identity;
    let counted = Counted { client: ControlClient::Identity, metrics: metrics.control.clone() };
    let watchers = counted.watchers(service);
    let dial = Arc::new(dial(started, service, Caller::Anyone, counted));
    let certify = CertifyClient::new(&service.addr.to_string(), dial).watched(watchers);
    let (min_refresh, max_refresh) = settings.identity.refresh;
    let renewal = Renewal { min_refresh, max_refresh, ..Renewal::default() };
    let token = Token::File(started.token.clone());
    let observer = CertificateMetrics(metrics.identity.clone());
    if let Some(expiry) = credentials.expiry() {
        metrics.identity.resumed(expiry);
    }
    let own = credentials.clone();
    tokio::spawn(tasks::keep("identity", move || {
        let (own, certify, token) = (own.clone(), certify.clone(), token.clone());
        certifier::run(own, certify, token, renewal, Clock::system(), observer.clone())
    }));
    let (own, leaf) = (credentials.clone(), leaf_file(&started.folder));
    tokio::spawn(tasks::keep("keep certificate", move || keep_leaf(own.clone(), leaf.clone())));

    let (credentials, token) = (credentials.clone(), readiness.block("the first certificate"));
    tokio::spawn(async move {
        while tokio::time::timeout(WAITING, credentials.ready()).await.is_err() {
            tracing::warn!("Waiting for identity to be initialized...");
        }
        tracing::info!(id = %credentials.local(), "Certified");
        drop(token);
        tokio::time::sleep(STARTED).await;
        if let Err(error) = mesh_net::pages::give_back() {
            tracing::debug!(%error, "The pages of the start stay");
        }
    });
}

/// Writes each new certificate beside the key.
async fn keep_leaf(credentials: Credentials, path: PathBuf) {
    let mut changed = credentials.subscribe();
    // The credentials hold the sender.
    while changed.changed().await.is_ok() {
        let Some(pem) = credentials.export() else { continue };
        if let Err(error) = store::write(&path, &pem) {
            tracing::warn!(%error, "The certificate cannot be kept for a restart");
        }
    }
}

#[derive(Clone)]
struct CertificateMetrics(IdentityMetrics);

impl certifier::Observe for CertificateMetrics {
    fn refreshed(&self, expiry: SystemTime, at: SystemTime) {
        self.0.refreshed(at, expiry);
    }

    fn failed(&self) {
        self.0.failed();
    }
}

/// What this build is.
fn facts(metrics: &Metrics) -> Facts {
    let build = Build {
        date: option_env!("MESH_BUILD_DATE").unwrap_or_default(),
        git_sha: option_env!("MESH_GIT_SHA").unwrap_or_default(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        version: env!("CARGO_PKG_VERSION"),
    };
    let tls = mesh_meshtls::facts();
    let tls = TlsInfo {
        suites: tls.suites.join(","),
        kx_groups: tls.kx_groups.join(","),
        rand: tls.rand,
        key_provider: tls.key_provider,
        fips: tls.fips,
    };
    Facts::new(metrics.registrar(), build, &tls)
}

fn dial(started: &Started, service: &Service, caller: Caller, counted: Counted) -> ServiceDial {
    let options = configs::control(&started.pod);
    ServiceDial::new(
        service,
        caller,
        started.resolver.clone(),
        options,
        started.credentials.clone(),
        counted,
    )
}

/// A channel to a service, by whoever we are certified to be.
pub(crate) fn channel(started: &Started, service: &Service, counted: Counted) -> Channel {
    let watchers = counted.watchers(service);
    let dial = Arc::new(dial(started, service, Caller::Certified, counted));
    Channel::watched(&service.addr.to_string(), dial, Handle::current(), watchers)
}

/// What workers are made of.
fn parts(started: &Started, metrics: &Metrics) -> Result<Parts, StartError> {
    let Started { settings, pod, sockets, .. } = started;
    let [initial, idle, lifetime] = settings.control.streams;
    let limits = StreamLimits { initial, idle, lifetime };
    let control = &settings.control;
    let channel = |service, client| {
        channel(started, service, Counted { client, metrics: metrics.control.clone() })
    };
    let destination = channel(&control.destination, ControlClient::Destination);
    let destination = DestinationClient::new(destination, &control.context, limits);
    let policy = channel(&control.policy, ControlClient::Policy);
    let policy = PolicyClient::new(policy, &control.workload, limits);
    let suffixes = control.profile_suffixes.iter().map(suffix_text).collect();
    let plane = Arc::new(ControlPlane {
        destination,
        policy: policy.clone(),
        profiled: Profiled { networks: control.profile_networks.clone(), suffixes },
    });
    let gateway = gateway(started, metrics, plane.clone());
    let source: Arc<dyn PolicySource> = match &gateway {
        None => Arc::new(policy),
        Some((_, view)) => {
            Arc::new(RememberingPolicies::new(Arc::new(policy), view.clone(), Handle::current()))
        }
    };
    let own = [sockets.admin.local().port()].into_iter();
    let direct = gateway.is_some().then_some(sockets.inbound_port.get());
    let eager = settings.policy.ports.iter().chain(own).chain(direct);
    let policies =
        Policies::new(configs::defaults(settings), source, eager, settings.inbound.discovery_idle);
    let mut inbound =
        configs::inbound(settings, pod, sockets.inbound_port, started.server_name.clone());
    inbound.access_log = access_log(started, metrics)?;
    inbound.profiles = Some(Profiles::new(
        Arc::new(NamedProfiles(plane.clone())),
        metrics.clone(),
        settings.inbound.discovery_idle,
    ));
    Ok(Parts {
        inbound,
        outbound: configs::outbound(settings, pod, Routing::Sidecar),
        entry: match (settings.explicit, settings.ingress) {
            (true, _) => Entry::Explicit,
            (false, true) => Entry::Ingress,
            (false, false) => Entry::Transparent,
        },
        policies,
        discover: plane,
        gateway: gateway.map(|(parts, _)| parts),
        credentials: started.credentials.clone(),
        metrics: metrics.clone(),
        inbound_socket: sockets.inbound.clone(),
        outbound_sockets: sockets.outbound.clone(),
    })
}

/// The profiles of names for the inbound half.
struct NamedProfiles(Arc<ControlPlane>);

impl ProfileSource for NamedProfiles {
    fn watch(&self, name: &NameAddr) -> watch::Receiver<State<Profile>> {
        self.0.profile(&Authority::Name(name.clone()))
    }
}

/// Lines about inbound requests go to stderr, as Linkerd's do.
fn access_log(started: &Started, metrics: &Metrics) -> Result<Option<AccessLog>, StartError> {
    let start = |format| AccessLog::start(format, std::io::stderr(), metrics.registrar());
    started.settings.access_log.map(start).transpose().map_err(StartError::Thread)
}

/// A gateway's parts, with the view that it keeps.
fn gateway(
    started: &Started,
    metrics: &Metrics,
    plane: Arc<dyn Discover>,
) -> Option<(GatewayParts, View)> {
    let Started { settings, pod, .. } = started;
    if settings.policy.gateway_suffixes.is_empty() {
        return None;
    }
    let path = started.snapshot();
    let view = View::resume(&path);
    let kept = view.clone();
    tokio::spawn(tasks::keep("snapshot", move || keep_saved(kept.clone(), path.clone())));
    let config = mesh_gateway::Config {
        suffixes: settings.policy.gateway_suffixes.clone(),
        id: started.credentials.local().clone(),
        patience: mesh_gateway::PATIENCE,
    };
    let parts = GatewayParts {
        config,
        outbound: configs::outbound(settings, pod, Routing::Gateway),
        discover: Arc::new(RememberingDiscovery::new(plane, view.clone())),
        metrics: GatewayMetrics::new(metrics.registrar()),
    };
    Some((parts, view))
}

fn suffix_text(suffix: &mesh_process::settings::form::Suffix) -> String {
    use mesh_process::settings::form::Suffix;
    match suffix {
        Suffix::Root => String::new(),
        Suffix::Name(name) => name.to_string(),
    }
}

/// Serves the admin port on this thread, also while the workers drain.
fn serve_admin(started: &Started, parts: &Parts, admin: Admin) -> Result<(), StartError> {
    let listener = Arc::new(started.sockets.admin.listener().map_err(StartError::Bind)?);
    let config = mesh_inbound::Config {
        detect_timeout: mesh_inbound::ADMIN_DETECT_TIMEOUT,
        access_log: None,
        ..parts.inbound.clone()
    };
    let inbound: Inbound<NoGateway> = Inbound::new(
        config,
        parts.policies.clone(),
        parts.credentials.clone(),
        parts.metrics.clone(),
        None,
    );
    tokio::spawn(tasks::keep("admin accept", move || {
        accept_admin(listener.clone(), inbound.clone(), admin.clone())
    }));
    Ok(())
}

async fn accept_admin(listener: Arc<Listener>, inbound: Inbound<NoGateway>, admin: Admin) {
    // Never drained: it answers until the process ends.
    let (_never, drain) = drain::channel();
    loop {
        let accepted = listener.accept().await;
        let service = admin.service(accepted.peer.ip());
        let served = inbound.clone().serve_admin(accepted, service, drain.clone());
        tasks::spawn("admin connection", served);
    }
}
