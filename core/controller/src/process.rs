//! # The process around a service
//!
//! Job: runtime, API client, admin servers, readiness, signals and drain, the same for all subcommands.
//! May touch: signals, admin ports. Must not touch: what the service does. Callers: the subcommands.

use crate::args::Common;
use anyhow::Context;
use kube::Client;
use mesh_cluster::Kubeconfig;
use mesh_process::{
    admin::{self, AdminState},
    context::PodContext,
    drain, metrics,
    ready::Readiness,
    shutdown::Signals,
};
use prometheus::Registry;
use std::{future::Future, net::SocketAddr, process::ExitCode, task::Poll, time::Duration};
use tokio::runtime::Builder;

/// What a service is given.
pub(crate) struct Process {
    pub(crate) client: Client,
    pub(crate) pod: PodContext,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) drain: drain::Watch,
    pub(crate) plaintext_from_own: bool,
}

/// How many threads a service needs.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// Everything on one.
    One,
    /// Two workers.
    Two,
}

/// Runs `service` until it ends, or until a signal and then its drain.
///
/// # Errors
/// When the process cannot start or the service fails.
pub(crate) fn run<F, S>(
    common: Common,
    threads: Threads,
    admin: &[SocketAddr],
    service: S,
) -> anyhow::Result<ExitCode>
where
    S: FnOnce(Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut builder = match threads {
        Threads::One => Builder::new_current_thread(),
        Threads::Two => Builder::new_multi_thread(),
    };
    // Blocking threads serve name look-ups alone.
    let runtime = builder.worker_threads(2).max_blocking_threads(4).enable_all().build()?;
    let result = runtime.block_on(supervise(common, admin, service));
    // A look-up that still hangs must not keep the process.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn supervise<F, S>(common: Common, admin: &[SocketAddr], service: S) -> anyhow::Result<()>
where
    S: FnOnce(Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut signals = Signals::install().context("signal handlers cannot be installed")?;
    let registry = Registry::new();
    metrics::register_process(&registry)?;
    let readiness = Readiness::new();
    let starting = readiness.block("the start");
    let mut servers = Vec::new();
    for addr in admin {
        let state = AdminState::new(registry.clone(), readiness.clone());
        servers.push(admin::serve(common.pod.bind(*addr), state).await?);
    }
    let kubeconfig =
        common.kubeconfig.map(|path| Kubeconfig { path: Some(path), ..Kubeconfig::default() });
    let client = mesh_cluster::client(&common.pod, kubeconfig.as_ref()).await?;
    let (signal, watch) = drain::channel();
    let running = service(Process {
        client,
        pod: common.pod,
        registry,
        readiness: readiness.clone(),
        drain: watch,
        plaintext_from_own: common.plaintext_from_own,
    });
    tokio::pin!(running);
    // Its first steps say what its readiness waits for.
    if let Poll::Ready(ended) = futures::poll!(running.as_mut()) {
        return ended;
    }
    drop(starting);
    let cause = tokio::select! {
        ended = &mut running => return ended,
        cause = signals.recv() => cause,
    };
    tracing::info!(%cause, "Draining");
    readiness.set_draining();
    signal.start();
    match tokio::time::timeout(GRACE, running).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!(after = ?GRACE, "Ended with work still open");
            Ok(())
        }
    }
}

/// Kubelets wait 30 s before they kill.
const GRACE: Duration = Duration::from_secs(10);
