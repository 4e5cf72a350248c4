//! # Status
//!
//! Job: says which processes a cluster has and what memory they use.
//! May touch: /proc, the cluster's folder. Must not touch: the processes. Callers: `core/cli`.

use std::{net::SocketAddr, path::Path};

use super::{ClusterError, ProcessId, Range, up};
use crate::node::launch;

/// One process of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUse {
    /// `api`, `node`, or `<namespace>/<pod>/<container>`.
    pub role: String,
    /// The process; none if it does not run.
    pub process: Option<ProcessId>,
    /// Anonymous resident memory in bytes: what is its own.
    pub anonymous: u64,
    /// Proportional set size in bytes: what may be summed up.
    pub pss: u64,
}

/// A cluster as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its range of addresses.
    pub range: Range,
    /// Its API server's address.
    pub api: SocketAddr,
    /// All of its processes.
    pub processes: Vec<ProcessUse>,
    /// Sum of the PSS in bytes.
    pub pss: u64,
}

/// The status of one cluster.
///
/// # Errors
/// If there is no such cluster, or its state does not parse.
pub fn status(data_dir: &Path, name: &str) -> Result<Status, ClusterError> {
    let state = up::load(data_dir, name)?;
    let own = [("api", state.api), ("node", state.node)];
    let mut processes: Vec<_> = own
        .into_iter()
        .map(|(role, process)| measure(role.to_owned(), process.filter(|p| p.is_alive())))
        .collect();
    for (label, _, record) in launch::all_recorded(&state.pods_dir()) {
        processes.push(measure(label, Some(record.process)));
    }
    let pss = processes.iter().map(|p| p.pss).sum();
    Ok(Status { name: name.to_owned(), range: state.range, api: state.range.api(), processes, pss })
}

fn measure(role: String, process: Option<ProcessId>) -> ProcessUse {
    let memory = process.and_then(ProcessId::memory).unwrap_or_default();
    ProcessUse { role, process, anonymous: memory.anonymous, pss: memory.pss }
}
