//! # Clusters as processes
//!
//! Job: brings a cluster up as two detached processes, takes it down, says how it is, and breaks parts of it
//! on request. Everything about a cluster is in `<data>/<cluster>/`.
//! May touch: processes it recorded, its data folder, the leases of address ranges.
//! Must not touch: programs by name, the API's objects. Callers: `core/cli`, tests.

pub mod lease;
mod occupied;
pub(crate) mod process;
mod serve;
mod status;
mod up;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
};

pub use process::ProcessId;
use serde::{Deserialize, Serialize};
pub use serve::{run_api, run_node};
pub use status::{ProcessUse, Status, status};
pub use up::{down, kubeconfig, list, start, stop, up};

/// Which executable stands for which container image and command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Image name without registry and tag, e.g. `proxy`.
    pub image: String,
    /// `command[0]` of the container, if it has a command.
    pub command: Option<String>,
    /// The file to execute.
    pub exe: PathBuf,
    /// Its `argv[0]`, by which a multi-call binary knows its role.
    pub argv0: String,
}

/// The table of programs. The container's remaining command and its args follow `argv[0]`.
pub type Programs = Vec<Program>;

/// A cluster to bring up.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// Cluster name: the kubeconfig context, and the folder below `data_dir`.
    pub name: String,
    /// Folder that holds the clusters, e.g. `~/.local/share/mesh/sandbox`.
    pub data_dir: PathBuf,
    /// What Pods may run.
    pub programs: Programs,
    /// Added to the port of the API server (6443) and of the cluster DNS (5353).
    pub port_offset: u16,
    /// Ports that Pods are going to bind on their own addresses: tried before anything starts.
    pub pod_ports: Vec<u16>,
    /// Process whose end takes the cluster down with it (a test, a demo); none to live on.
    pub owner: Option<u32>,
}

/// How to start this program again as one of a cluster's processes.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The executable, mostly `std::env::current_exe()`.
    pub exe: PathBuf,
    /// Its `argv[0]`, if it is a multi-call binary; none for the path.
    pub argv0: Option<String>,
    /// Arguments before the state file's path that lead to [`run_api`].
    pub api_args: Vec<String>,
    /// Arguments before the state file's path that lead to [`run_node`].
    pub node_args: Vec<String>,
}

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its kubeconfig, with one context of the cluster's name.
    pub kubeconfig: PathBuf,
    /// Its addresses.
    pub range: Range,
    /// The API server's address.
    pub api: SocketAddr,
}

/// The range 127.x.0.0/16 of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// The `x`.
    pub octet: u8,
    /// Shift of the API server's and the DNS server's port.
    pub port_offset: u16,
}

impl Range {
    fn ip(self, c: u8, d: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.octet, c, d)
    }

    /// The API server: 127.x.0.1:6443, the port shifted.
    pub fn api(self) -> SocketAddr {
        SocketAddrV4::new(self.ip(0, 1), 6443u16.saturating_add(self.port_offset)).into()
    }

    /// The cluster DNS: 127.x.0.10:5353, the port shifted.
    pub fn dns(self) -> SocketAddr {
        SocketAddrV4::new(self.ip(0, 10), 5353u16.saturating_add(self.port_offset)).into()
    }

    /// The node's own address.
    pub fn node(self) -> Ipv4Addr {
        self.ip(0, 2)
    }

    /// First Pod address; the last is 127.x.127.254.
    pub fn first_pod(self) -> Ipv4Addr {
        self.ip(1, 1)
    }

    /// First ClusterIP.
    pub fn first_cluster_ip(self) -> Ipv4Addr {
        self.ip(128, 1)
    }

    /// First LoadBalancer address.
    pub fn first_balancer(self) -> Ipv4Addr {
        self.ip(200, 1)
    }

    /// The range as a CIDR, as `clusterNetworks` takes it.
    pub fn cidr(self) -> String {
        format!("127.{}.0.0/16", self.octet)
    }
}

/// What went wrong with a cluster's processes.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Only Linux has a whole loopback range and the /proc files this needs.
    #[error("the sandbox runs on Linux only; on this system use kind, as the kind scripts do")]
    Unsupported,
    /// A name that cannot be a folder and a context.
    #[error("{0:?} is no cluster name: use lower-case letters, digits and `-`, at most 40 of them")]
    Name(String),
    /// The cluster is up already.
    #[error("cluster {0} is up already; `down` it first")]
    AlreadyUp(String),
    /// There is no such cluster.
    #[error("there is no cluster {name} in {}", data_dir.display())]
    Unknown {
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        data_dir: PathBuf,
    },
    /// A component that the cluster does not have.
    #[error("cluster {cluster} has no component {component:?}; it has: {known}")]
    Component {
        /// The cluster.
        cluster: String,
        /// What was asked for.
        component: String,
        /// What there is.
        known: String,
    },
    /// A port is taken.
    #[error("{address} is in use by {holder}; stop it, or shift the ports with --port-offset")]
    Occupied {
        /// The address that is needed.
        address: SocketAddr,
        /// The process in the way, as far as it can be seen.
        holder: String,
    },
    /// Every range is leased.
    #[error("all ranges 127.x.0.0/16 are leased; the leases are in {}", .0.display())]
    NoRange(PathBuf),
    /// A process did not come up.
    #[error("the {role} process of cluster {cluster} did not start: {cause} (its log: {})", log.display())]
    Start {
        /// The cluster.
        cluster: String,
        /// `api` or `node`.
        role: &'static str,
        /// Why, as far as it is known.
        cause: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of an earlier run that does not parse.
    #[error("{} does not parse: {cause}; remove the folder, or `down` the cluster", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        cause: String,
    },
    /// The cluster's own software failed.
    #[error("{0}")]
    Internal(String),
}

impl ClusterError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// What is on disk about a cluster that is up: the one thing its processes are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) range: Range,
    pub(crate) programs: Programs,
    pub(crate) owner: Option<ProcessId>,
    pub(crate) lease: PathBuf,
    pub(crate) api: Option<ProcessId>,
    pub(crate) node: Option<ProcessId>,
    pub(crate) exe: PathBuf,
    pub(crate) argv0: Option<String>,
    pub(crate) api_args: Vec<String>,
    pub(crate) node_args: Vec<String>,
}

impl State {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    pub(crate) fn load(path: &Path) -> Result<Self, ClusterError> {
        let bytes = std::fs::read(path).map_err(ClusterError::file("read", path))?;
        serde_json::from_slice(&bytes).map_err(|error| ClusterError::Corrupt {
            path: path.to_owned(),
            cause: error.to_string(),
        })
    }

    pub(crate) fn save(&self) -> Result<(), ClusterError> {
        let path = Self::path(&self.dir);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| ClusterError::Internal(error.to_string()))?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, bytes).map_err(ClusterError::file("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(ClusterError::file("write", &path))
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub(crate) fn log(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.log"))
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.dir.join("pods")
    }
}
