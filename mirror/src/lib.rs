//! # Service mirror
//!
//! Job: the controller that copies exported Services of linked clusters into this one, with the
//! exporting gateway's addresses as their endpoints.
//! May touch: both clusters' API servers, the gateways' admin ports, its own admin port.
//! Must not touch: traffic. Callers: bin `mesh-mirror`, the controller image's executable, the multi-call
//! `mesh`.

mod apply;
pub mod args;
mod error;
mod feeds;
mod identity;
mod index;
mod links;
mod metrics;
mod remote;
mod status;
mod term;

use args::Config;
use error::Error;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use kube::{Api, Client, runtime::watcher};
use mesh_cluster::{Kubeconfig, watch};
use mesh_k8s::labels;
use mesh_link::probe::dial::Dial;
use mesh_net::dns::{Resolver, TtlBounds};
use mesh_process::{
    admin::{self, AdminState},
    context::PodContext,
    logs,
    ready::Readiness,
    settings, shutdown,
};
use parking_lot::Mutex;
use prometheus::Registry;
use std::{ffi::OsString, process::ExitCode, sync::Arc};
use term::Common;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Runs the mirror until SIGTERM or SIGINT. `args` begin with the program's name.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let config = match Config::parse(args.get(1..).unwrap_or_default(), settings::env) {
        Ok(config) => config,
        Err(error) => return fail(&Error::Settings(error), settings::EXIT_USAGE),
    };
    if let Err(error) = logs::init(&logs::from_go_level(&config.log_level), config.log_json) {
        return fail(&Error::Start(error.to_string()), 1);
    }
    // One small thread: the work is waiting.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(error) => Err(Error::Start(error.to_string())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (Error::Settings(_) | Error::Context(_))) => fail(&error, settings::EXIT_USAGE),
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &Error, code: u8) -> ExitCode {
    // Standard error, since logging may not be up yet.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "mesh-mirror: {error}");
    ExitCode::from(code)
}

async fn serve(config: Config) -> Result<(), Error> {
    let context = PodContext::from_lookup(settings::env)?;
    let kubeconfig = config
        .kubeconfig
        .clone()
        .map(|path| Kubeconfig { path: Some(path), ..Kubeconfig::default() });
    let client = mesh_cluster::client(&context, kubeconfig.as_ref()).await?;
    let registry = Registry::new();
    let readiness = Readiness::new();
    let dial = identity::dial(&context, config.identity.as_ref())?;
    let stop = CancellationToken::new();
    let ended = stop.clone();
    let draining = readiness.clone();
    tokio::spawn(async move {
        shutdown::signal().await;
        draining.set_draining();
        ended.cancel();
    });
    mirror(config, &context, client, dial, registry, readiness, stop).await
}

/// The mirror itself, on whatever client and dialler it is given.
async fn mirror(
    config: Config,
    context: &PodContext,
    client: Client,
    dial: Arc<dyn Dial>,
    registry: Registry,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), Error> {
    let metrics = metrics::Metrics::new(&registry).map_err(|e| Error::Start(e.to_string()))?;
    let resolver = Resolver::new(context, TtlBounds::default())
        .inspect_err(|error| tracing::warn!(%error, "gateways with names cannot be reached"))
        .ok();
    let world = feeds::Shared::default();
    let _feeds = follow_local(&client, &world, &readiness);
    let ready = readiness.block("links");
    // After all that holds readiness back: whoever asks first on this port must not find us ready.
    let admin = context.bind(config.admin);
    let _admin = admin::serve(admin, AdminState::new(registry, readiness)).await?;
    let create_namespaces = config.create_namespaces;
    let common = Common { client, world, dial, resolver, metrics, create_namespaces };
    let scope =
        links::Scope { namespace: config.namespace, only: config.link, identity: config.pod_name };
    links::run(common, scope, ready, stop).await;
    Ok(())
}

/// Watches of the local cluster: only what a mirror has made, and the namespaces.
fn follow_local(
    client: &Client,
    world: &feeds::Shared,
    readiness: &Readiness,
) -> [AbortOnDropHandle<()>; 3] {
    let ours = || watcher::Config::default().labels(&format!("{}=true", labels::MIRRORED_SERVICE));
    let services = Arc::new(Mutex::new(feeds::LocalServices(world.clone())));
    let endpoints = Arc::new(Mutex::new(feeds::LocalEndpoints(world.clone())));
    let namespaces = Arc::new(Mutex::new(feeds::LocalNamespaces(world.clone())));
    [
        watch::spawn::<Service, _>(
            Api::all(client.clone()),
            ours(),
            services,
            readiness.block("local services"),
        ),
        watch::spawn::<Endpoints, _>(
            Api::all(client.clone()),
            ours(),
            endpoints,
            readiness.block("local endpoints"),
        ),
        watch::spawn::<Namespace, _>(
            Api::all(client.clone()),
            watcher::Config::default(),
            namespaces,
            readiness.block("namespaces"),
        ),
    ]
    .map(AbortOnDropHandle::new)
}

#[cfg(test)]
mod contract_tests;
