//! # Suite: memory
//!
//! Job: everything of ours in a cluster stays small: VmRSS summed over all processes of the control plane and the
//! multicluster extension.
//! Callers: `suites`.

use crate::{kubectl::Kubectl, stage::Stage};
use anyhow::{Result, ensure};
use std::fs;

/// Most, in MiB, for one cluster.
const LIMIT: u64 = 100;

/// Sums both clusters.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    for cluster in stage.both() {
        let mut rows = Vec::new();
        for namespace in ["linkerd", "linkerd-multicluster"] {
            rows.extend(of_pods(cluster, namespace)?);
        }
        let sum: u64 = rows.iter().map(|(_, kib)| kib).sum::<u64>() / 1024;
        let each: Vec<String> =
            rows.iter().map(|(name, kib)| format!("{name} {} MiB", kib / 1024)).collect();
        if rows.is_empty() {
            crate::note("  the processes of this provider cannot be seen from here");
            return Ok(());
        }
        crate::note(&format!("  {}: {sum} MiB VmRSS ({})", cluster.context, each.join(", ")));
        ensure!(sum <= LIMIT, "{}: {sum} MiB in all, at most {LIMIT} are meant", cluster.context);
    }
    Ok(())
}

/// (process, VmRSS in KiB) of a namespace's Pods, found by the Pod's UID in the name of the process' cgroup.
fn of_pods(cluster: &Kubectl, namespace: &str) -> Result<Vec<(String, u64)>> {
    let pods = cluster.get(&format!("pods -n {namespace}"))?;
    let uids: Vec<String> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned))
        .collect();
    let mut rows = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let cgroup = read("cgroup");
        if !uids.iter().any(|uid| cgroup.contains(uid.as_str())) {
            continue;
        }
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            line.map(|l| l.trim_matches([':', ' ', '\t']).to_owned()).unwrap_or_default()
        };
        let name = field("Name");
        let rss = field("VmRSS").split(' ').next().and_then(|n| n.parse().ok());
        if name != "pause" {
            rows.extend(rss.map(|kib| (name, kib)));
        }
    }
    Ok(rows)
}
