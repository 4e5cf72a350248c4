//! # The sandbox's API server
//!
//! Job: an embedded Kubernetes API server over HTTPS on a loopback address: real requests, real certificates,
//! kept on disk. This file is its front door: start, credentials, shutdown.
//! May touch: its data folder, its listening socket. Must not touch: Pods, processes, DNS.
//! Callers: `cluster` (the sandbox's cluster), tests of other rooms.

mod admission;
mod audit;
mod authn;
mod authz;
mod bootstrap;
mod connection;
mod decode;
mod discovery;
mod finish;
mod kinds;
mod managed;
mod object;
mod openapi;
mod options;
mod patch;
mod pki;
mod pod_log;
mod protobuf;
mod read;
mod registry;
mod request;
mod reviews;
mod selector;
mod serve;
mod shared;
mod status;
mod table;
mod tokens;
mod watch;
mod write;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use ipnet::Ipv4Net;
use tokio::{net::TcpListener, sync::watch as signal, task::JoinHandle};

use self::shared::Shared;
pub(crate) use self::status::{FieldError, FieldErrorKind};
pub use crate::store::StoreError;

/// What an API server needs to know before it starts.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The cluster's name: context, cluster and user in its kubeconfigs.
    pub name: String,
    /// Folder of the store, keys and logs; made if absent. Objects found there are served again.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Further names and addresses in the serving certificate, besides the bound address and the
    /// names of Service `default/kubernetes`.
    pub extra_names: Vec<String>,
    /// Range that ClusterIPs are allocated from; its first address is `default/kubernetes`.
    pub service_cidr: Ipv4Net,
    /// The cluster's DNS suffix, in the issuer of ServiceAccount tokens.
    pub cluster_domain: String,
    /// Audit log (JSON lines, metadata level), none if absent.
    pub audit_log: Option<PathBuf>,
    /// Folder with `<namespace>_<pod>_<uid>/<container>.log`, and `<container>.previous.log` of the
    /// run before, for the Pod log subresource.
    pub pod_logs: PathBuf,
}

impl ApiConfig {
    /// A configuration with everything else derived: range 10.96.0.0/16 (or the upper half of the bound
    /// 127.x.0.0/16), suffix `cluster.local`, audit log and Pod logs inside the data folder.
    pub fn new(name: impl Into<String>, data_dir: impl Into<PathBuf>, bind: SocketAddr) -> Self {
        let data_dir = data_dir.into();
        let base = match bind.ip() {
            IpAddr::V4(ip) if ip.is_loopback() && ip != Ipv4Addr::LOCALHOST => {
                Ipv4Addr::new(127, ip.octets()[1], 128, 0)
            }
            _ => Ipv4Addr::new(10, 96, 128, 0),
        };
        Self {
            name: name.into(),
            bind,
            extra_names: Vec::new(),
            service_cidr: Ipv4Net::new_assert(base, 18),
            cluster_domain: "cluster.local".into(),
            audit_log: Some(data_dir.join("audit.log")),
            pod_logs: data_dir.join("pods"),
            data_dir,
        }
    }
}

/// Why an API server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be made or read: the operator's.
    #[error(
        "the sandbox's data folder {path} cannot be used: {source}; choose another or mend its permissions"
    )]
    Folder {
        /// The file or folder at fault.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store is damaged or held by another process.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address is taken or not ours.
    #[error(
        "the API server cannot listen on {addr}: {source}; stop what holds it or choose another port"
    )]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Key material in the data folder does not parse, or none can be made.
    #[error(
        "the API server's keys in {path} cannot be used: {reason}; remove the folder to have new ones made"
    )]
    Keys {
        /// Folder of the keys.
        path: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
}

/// A running API server. Dropping it stops it without waiting; [`ApiServer::shutdown`] waits.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    stop: signal::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Opens the store, makes or loads keys, creates the default objects and starts to serve.
    ///
    /// # Errors
    /// One sentence with the remedy: folder, store, keys or address.
    pub async fn start(config: ApiConfig) -> Result<Self, StartError> {
        let listener = TcpListener::bind(config.bind)
            .await
            .map_err(|source| StartError::Bind { addr: config.bind, source })?;
        let addr = listener
            .local_addr()
            .map_err(|source| StartError::Bind { addr: config.bind, source })?;
        let shared = Arc::new(Shared::open(config, addr)?);
        bootstrap::create_default_objects(&shared);
        let (stop, stopped) = signal::channel(false);
        shared.clone().spawn_background(stopped.clone());
        let task = tokio::spawn(connection::accept(listener, shared.clone(), stopped));
        Ok(Self { shared, stop, task: Some(task) })
    }

    /// The bound address.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// `https://ip:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.shared.addr)
    }

    /// The cluster's CA, which signs the serving certificate and client certificates.
    pub fn ca_pem(&self) -> &str {
        &self.shared.pki.ca_pem
    }

    /// A kubeconfig (YAML) of a member of `system:masters`, by client certificate.
    pub fn admin_kubeconfig(&self) -> String {
        self.kubeconfig(
            &format!("{}-admin", self.shared.config.name),
            &self.shared.pki.admin_user(),
        )
    }

    /// A kubeconfig (YAML) with a bearer token.
    pub fn token_kubeconfig(&self, user: &str, token: &str) -> String {
        self.kubeconfig(user, &serde_json::json!({ "token": token }))
    }

    /// A token of a ServiceAccount for the API server, valid for an hour. The account must exist when
    /// the token is used.
    ///
    /// # Errors
    /// The ServiceAccount does not exist.
    pub fn issue_token(&self, namespace: &str, name: &str) -> Result<String, NoServiceAccount> {
        tokens::issue_for(&self.shared, namespace, name).ok_or_else(|| NoServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Stops accepting, ends watches, writes everything to disk.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // A panic of the accept loop has already been reported by the runtime.
            let _ = task.await;
        }
        self.shared.store.flush().await;
    }

    fn kubeconfig(&self, user: &str, credential: &serde_json::Value) -> String {
        let name = &self.shared.config.name;
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name, "preferences": {},
            "clusters": [{"name": name, "cluster": {
                "server": self.url(),
                "certificate-authority-data": pki::base64(self.ca_pem().as_bytes()),
            }}],
            "users": [{"name": user, "user": credential}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        });
        serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// The ServiceAccount named does not exist.
#[derive(Debug, thiserror::Error)]
#[error("serviceaccounts {namespace}/{name} not found")]
pub struct NoServiceAccount {
    namespace: String,
    name: String,
}
