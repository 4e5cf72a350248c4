//! # From settings to a proxy that is about to run
//!
//! Job: read everything, check everything, bind everything; fail early, with all reasons.
//! May touch: the environment, key files, sockets. Must not touch: traffic. Callers: `run`.

use crate::{
    BAD_CONFIGURATION, configs,
    settings::{Settings, table::TABLES},
};
use mesh_meshtls::{Credentials, Params, store};
use mesh_model::identity::DnsName;
use mesh_net::{
    dns::{DnsError, Resolver},
    listen::{Bound, bind},
};
use mesh_pki::{MaterialError, TrustBundle};
use mesh_process::{
    context::PodContext,
    logs,
    settings::{BadSettings, env},
};
use std::{
    io,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// Everything that runs need.
pub(crate) struct Started {
    pub(crate) settings: Settings,
    pub(crate) pod: PodContext,
    pub(crate) logs: logs::Handle,
    pub(crate) credentials: Credentials,
    pub(crate) server_name: DnsName,
    pub(crate) token: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) resolver: Resolver,
    pub(crate) sockets: Sockets,
}

/// The bound sockets. Connections wait in the kernel until the loops begin.
pub(crate) struct Sockets {
    pub(crate) inbound: Arc<Bound>,
    pub(crate) inbound_port: NonZeroU16,
    pub(crate) outbound: Arc<[Bound]>,
    pub(crate) admin: Bound,
}

/// Why the proxy does not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("invalid configuration: {} bad setting(s)", .0.0.len())]
    Settings(BadSettings),
    #[error("{0}")]
    Logs(#[from] logs::LogError),
    #[error("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS is not valid: {0}")]
    Anchors(#[source] MaterialError),
    #[error("the identity {0} is no DNS name, which this mesh needs")]
    Name(String),
    #[error("the service account token {path} cannot be used: {reason}")]
    Token { path: PathBuf, reason: String },
    #[error("{0}")]
    Store(#[from] store::StoreError),
    #[error("the key cannot be used: {0}")]
    Key(#[source] MaterialError),
    #[error("{0}")]
    Bind(#[source] io::Error),
    #[error("{0}")]
    Dns(#[from] DnsError),
    #[error("cannot start a thread or runtime: {0}")]
    Thread(#[source] io::Error),
    #[error("worker {0} has ended, which carried a part of all connections")]
    Worker(usize),
}

impl StartError {
    /// 64 for what the operator must mend in the configuration, 1 for what failed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::Logs(_)
            | Self::Anchors(_)
            | Self::Name(_)
            | Self::Token { .. }
            | Self::Store(store::StoreError::Invalid { .. }) => BAD_CONFIGURATION,
            Self::Store(_)
            | Self::Key(_)
            | Self::Bind(_)
            | Self::Dns(_)
            | Self::Thread(_)
            | Self::Worker(_) => 1,
        }
    }

    /// One line a problem, then the sum.
    pub(crate) fn report(&self) {
        if let Self::Settings(bad) = self {
            for problem in &bad.0 {
                tracing::error!("{problem}");
            }
        }
        tracing::error!("{self}");
    }
}

/// Reads, checks and binds.
pub(crate) fn start(pod: &PodContext) -> Result<Started, StartError> {
    let (settings, logs) = read(pod)?;
    let identity = &settings.identity;
    let anchors =
        TrustBundle::from_pem(identity.anchors.as_bytes()).map_err(StartError::Anchors)?;
    let server_name = configs::server_name(&identity.name)
        .ok_or_else(|| StartError::Name(identity.name.to_string()))?;
    let token = pod.path(&identity.token_file);
    check_token(&token)?;
    let folder = pod.path(&identity.dir);
    let files = store::load_or_create(&folder, &server_name)?;
    let params = Params {
        local: identity.name.clone(),
        server_name: server_name.clone(),
        anchors,
        key: files.key,
        csr: Some(files.csr),
    };
    let credentials = Credentials::new(params).map_err(StartError::Key)?;
    resume_leaf(&credentials, &folder);
    let resolver = Resolver::new(pod, settings.dns_ttl)?;
    let sockets = sockets(&settings, pod).map_err(StartError::Bind)?;
    let pod = pod.clone();
    let started =
        Started { settings, pod, logs, credentials, server_name, token, folder, resolver, sockets };
    started.announce();
    Ok(started)
}

/// The file with the current leaf and its key, beside the key.
pub(crate) fn leaf_file(folder: &Path) -> PathBuf {
    folder.join("leaf.pem")
}

fn read(pod: &PodContext) -> Result<(Settings, logs::Handle), StartError> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    match Settings::read(env, pod, cpus) {
        Ok(settings) => {
            let logs = logs::init(&settings.log.0, settings.log.1);
            // A bad filter is told through the usual one.
            let logs = logs.inspect_err(|_| start_default_logs())?;
            for warning in &settings.warnings {
                tracing::warn!("{warning}; passed over");
            }
            Ok((settings, logs))
        }
        Err(bad) => {
            start_default_logs();
            Err(StartError::Settings(bad))
        }
    }
}

fn start_default_logs() {
    let filter = TABLES.iter().flat_map(|t| t.iter()).find(|row| row.name.ends_with("_LOG"));
    let filter = filter.and_then(|row| row.default).unwrap_or("warn");
    // Fails only if logs were started before, and then the problems are seen there.
    let _ = logs::init(filter, false);
}

fn check_token(path: &Path) -> Result<(), StartError> {
    let bad = |reason: String| StartError::Token { path: path.to_owned(), reason };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() == 0 => Err(bad("it is empty".into())),
        Ok(_) => Ok(()),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// A certificate of this container's earlier life serves until it ends; without one the first renewal does.
fn resume_leaf(credentials: &Credentials, folder: &Path) {
    let path = leaf_file(folder);
    let Ok(pem) = std::fs::read(&path) else { return };
    match credentials.import(&pem, SystemTime::now()) {
        Ok(_) => tracing::info!(path = %path.display(), "Resuming with the stored certificate"),
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "The stored certificate is not used");
        }
    }
}

fn sockets(settings: &Settings, pod: &PodContext) -> io::Result<Sockets> {
    let inbound = bind(pod, settings.inbound_listen, configs::listen(&settings.inbound))?;
    let outbound = settings.outbound_listen.iter();
    let outbound = outbound
        .map(|addr| bind(pod, *addr, configs::listen(&settings.outbound)))
        .collect::<Result<_, _>>()?;
    let admin = bind(pod, settings.admin, configs::listen(&settings.inbound))?;
    let inbound_port = NonZeroU16::new(inbound.local().port())
        .ok_or_else(|| io::Error::other("the inbound socket has no port"))?;
    Ok(Sockets { inbound: Arc::new(inbound), inbound_port, outbound, admin })
}

impl Started {
    fn announce(&self) {
        let addrs: Vec<SocketAddr> = self.sockets.outbound.iter().map(Bound::local).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = self.settings.workers,
            "mesh-proxy"
        );
        tracing::info!(admin = %self.sockets.admin.local(), inbound = %self.sockets.inbound.local(), outbound = ?addrs, "Listening");
        tracing::info!(identity = %self.credentials.local(), "Local identity");
        let control = &self.settings.control;
        for (what, service) in [
            ("identity", &control.identity),
            ("destination", &control.destination),
            ("policy", &control.policy),
        ] {
            let name = service.name.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(addr = %service.addr, name, "Control plane: {what}");
        }
    }

    /// Where the gateway's last good view is kept, if this is a gateway.
    pub(crate) fn snapshot(&self) -> PathBuf {
        match &self.settings.snapshot {
            Some(path) => self.pod.path(path),
            None => self.folder.join("gateway-view"),
        }
    }
}
