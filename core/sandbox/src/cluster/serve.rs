//! # The two processes of a cluster
//!
//! Job: what the hidden subcommands run: the API server with its controllers, and the node agent. Each says on its
//! standard output when it serves, and ends on a signal or with its owner.
//! May touch: its own process, the cluster's state file. Must not touch: other clusters. Callers: `core/cli`, tests.

use std::{io::Write, path::Path, time::Duration};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{ClusterError, State, up};
use crate::{
    api::{ApiConfig, ApiServer},
    controllers::{self, ControllersConfig},
    node::{self, NodeConfig},
};

/// How long the controllers may take for their first work.
const AT_WORK: Duration = Duration::from_secs(10);

/// Runs the API server and the controllers of the cluster whose state file is given, until SIGTERM, SIGINT or
/// the end of the cluster's owner. The caller has set up logging to standard error.
///
/// # Errors
/// If the server cannot start.
pub fn run_api(state: &Path) -> Result<(), ClusterError> {
    let state = State::load(state)?;
    detach();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(ClusterError::file("start threads for", &state.dir))?;
    runtime.block_on(serve_api(state))
}

/// Runs the node agent of the cluster whose state file is given, until SIGTERM, SIGINT or the end of the cluster's
/// owner. Pods live on, unless it was the owner that ended.
///
/// # Errors
/// If the agent cannot start.
pub fn run_node(state: &Path) -> Result<(), ClusterError> {
    let state = State::load(state)?;
    detach();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClusterError::file("start threads for", &state.dir))?;
    runtime.block_on(serve_node(state))
}

async fn serve_api(state: State) -> Result<(), ClusterError> {
    let mut config = ApiConfig::new(&state.name, state.dir.join("store"), state.range.api());
    config.pod_logs = state.pods_dir();
    config.audit_log = Some(state.dir.join("audit.log"));
    let internal = |error: &dyn std::fmt::Display| ClusterError::Internal(error.to_string());
    let server = ApiServer::start(config).await.map_err(|e| internal(&e))?;
    let kubeconfig = server.admin_kubeconfig();
    write_private(&state.kubeconfig(), &kubeconfig)?;
    let client = client(&kubeconfig).await?;
    let config = ControllersConfig {
        first_balancer: state.range.first_balancer(),
        ca_pem: server.ca_pem().to_owned(),
    };
    let controllers = tokio::spawn(controllers::run(client.clone(), config));
    controllers_at_work(client).await?;
    announce();
    ended(&state).await;
    controllers.abort();
    server.shutdown().await;
    Ok(())
}

async fn serve_node(state: State) -> Result<(), ClusterError> {
    let kubeconfig = state.kubeconfig();
    let text =
        std::fs::read_to_string(&kubeconfig).map_err(ClusterError::file("read", &kubeconfig))?;
    let client = client(&text).await?;
    let config = NodeConfig {
        name: format!("{}-node", state.name),
        range: state.range,
        pods_dir: state.pods_dir(),
        programs: state.programs.clone(),
        cluster_domain: "cluster.local".to_owned(),
    };
    tokio::select! {
        outcome = node::run(client, config, announce) => outcome,
        orphaned = ended(&state) => {
            if orphaned {
                take_down(&state);
            }
            Ok(())
        }
    }
}

/// Waits for the first thing that a cluster has by its controllers: without it no Pod can be created.
async fn controllers_at_work(client: Client) -> Result<(), ClusterError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
    let appeared = async {
        while !matches!(accounts.get_opt("default").await, Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(AT_WORK, appeared).await.map_err(|_| {
        ClusterError::Internal("the controllers did not make the default ServiceAccount".to_owned())
    })
}

/// A client of the cluster's own API.
async fn client(kubeconfig: &str) -> Result<Client, ClusterError> {
    let failed = |error: &dyn std::fmt::Display| ClusterError::Internal(error.to_string());
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|e| failed(&e))?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|e| failed(&e))?;
    Client::try_from(config).map_err(|e| failed(&e))
}

/// Waits for a signal or the owner's end; whether it was the owner.
async fn ended(state: &State) -> bool {
    let orphaned = async {
        match state.owner {
            Some(owner) => owner.gone().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = orphaned => true,
        () = signalled(SignalKind::terminate()) => false,
        () = signalled(SignalKind::interrupt()) => false,
    }
}

async fn signalled(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::error!(%error, "signals cannot be received");
            std::future::pending::<()>().await;
        }
    }
}

/// Nobody is left who would take the cluster down: its Pods and its folder go with the owner.
fn take_down(state: &State) {
    let path = State::path(&state.dir);
    let mut state = State::load(&path).unwrap_or_else(|_| state.clone());
    // This very process goes last, by itself.
    state.node = None;
    up::halt(&state);
    if let Err(error) = std::fs::remove_dir_all(&state.dir) {
        tracing::warn!(%error, "the cluster's folder stays");
    }
}

/// The cluster outlives the terminal from which it was started, and has a socket for each port of each Service.
fn detach() {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, files) {
        tracing::debug!(%error, "the limit of open files stays");
    }
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "no session of its own");
    }
}

/// Tells whoever started this process that it serves.
fn announce() {
    let mut stdout = std::io::stdout();
    // If nobody listens any more, nobody waits either.
    let _ = writeln!(stdout, "{}", up::READY).and_then(|()| stdout.flush());
}

/// Writes a file that holds a credential.
fn write_private(path: &Path, text: &str) -> Result<(), ClusterError> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(ClusterError::file("write", &temporary))?;
    file.write_all(text.as_bytes()).map_err(ClusterError::file("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(ClusterError::file("write", path))
}
