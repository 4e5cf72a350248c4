//! # Namespaces, links, and what a run leaves in the kernel
//!
//! Job: make the bridge and a namespace a cluster; find the processes in it; take all of it away again,
//! whoever made it.
//! May touch: links, namespaces and cgroups that bear our names; processes in those namespaces. Callers: `local`.

use super::plan::{BRIDGE, CLUSTERS, HOST, Plan};
use crate::run;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Makes the bridge, and records whose it is.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make_bridge(owner: &Path) -> Result<()> {
    run::line(&format!("ip link add {BRIDGE} type bridge"))?;
    run::program("ip", ["link", "set", BRIDGE, "up", "alias", &owner.display().to_string()])?;
    run::line(&format!("ip addr add {HOST}/16 dev {BRIDGE}"))?;
    Ok(())
}

/// The state folder of the run that made the bridge, if there is one.
pub(crate) fn owner() -> Option<PathBuf> {
    let alias = fs::read_to_string(format!("/sys/class/net/{BRIDGE}/ifalias")).ok()?;
    Some(PathBuf::from(alias.trim()))
}

/// Makes a cluster's namespace, linked to the bridge.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make_namespace(plan: Plan) -> Result<()> {
    let (netns, link) = (plan.netns(), plan.link());
    run::line(&format!("ip netns add {netns}"))?;
    run::line(&format!("ip link add {link} type veth peer name eth0 netns {netns}"))?;
    run::line(&format!("ip link set {link} master {BRIDGE} up"))?;
    for command in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("addr add {}/16 dev eth0", plan.node()),
        format!("route add default via {HOST}"),
    ] {
        run::line(&format!("ip -n {netns} {command}"))?;
    }
    Ok(())
}

/// Cuts a cluster off, or joins it again.
///
/// # Errors
/// When there is no such link.
pub(crate) fn set_link(plan: Plan, up: bool) -> Result<()> {
    run::line(&format!("ip link set {} {}", plan.link(), if up { "up" } else { "down" }))?;
    Ok(())
}

/// The processes of a cluster's node itself; those of its Pods are in namespaces of their own.
pub(crate) fn processes(plan: Plan) -> Vec<Pid> {
    let Ok(ours) = fs::metadata(format!("/run/netns/{}", plan.netns())) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            let netns = fs::metadata(entry.path().join("ns/net")).ok()?;
            (netns.ino() == ours.ino() && netns.dev() == ours.dev()).then_some(pid)
        })
        .collect()
}

/// The node's first process, the parent of everything in it: process 1 of its own PID namespace.
pub(crate) fn first_process(plan: Plan) -> Option<Pid> {
    processes(plan).into_iter().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        status.is_ok_and(|text| {
            let line = text.lines().find(|l| l.starts_with("NSpid:")).unwrap_or_default();
            line.split_whitespace().count() == 3 && line.split_whitespace().last() == Some("1")
        })
    })
}

/// Ends every process of both clusters and takes away what the kernel still has of them.
///
/// # Errors
/// With the first thing that would not go.
pub(crate) fn remove() -> Result<()> {
    for plan in CLUSTERS {
        run::until(&format!("ending the processes of {}", plan.name), GONE_WITHIN, || {
            let left = processes(plan);
            for pid in &left {
                // It may have ended since.
                let _ = kill_process(*pid, Signal::KILL);
            }
            ensure!(left.is_empty(), "{} processes are left", left.len());
            Ok(())
        })?;
        remove_cgroups(plan)?;
        if Path::new("/run/netns").join(plan.netns()).exists() {
            run::line(&format!("ip netns del {}", plan.netns()))?;
        }
        if link_exists(&plan.link()) {
            // The namespace takes its end along, a little later; whoever is first wins.
            let _ = run::line(&format!("ip link del {}", plan.link()));
        }
    }
    if link_exists(BRIDGE) {
        run::line(&format!("ip link del {BRIDGE}"))?;
    }
    Ok(())
}

fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Mount points of all cgroup hierarchies.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let at = words.next()?;
            words.next()?.starts_with("cgroup").then(|| PathBuf::from(at))
        })
        .collect())
}

/// Makes the cluster's cgroup in every hierarchy. A new cpuset is empty, and nothing can run in it; and all Pods together
/// would have the weight of one process of the machine, of which the cluster's own servers are a dozen.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make_cgroups(plan: Plan) -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(plan.cgroup());
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let all = hierarchy.join(file);
            if all.exists() {
                fs::write(folder.join(file), fs::read_to_string(all)?)?;
            }
        }
        for (file, weight) in [("cpu.shares", "32768"), ("cpu.weight", "3200")] {
            if folder.join(file).exists() {
                fs::write(folder.join(file), weight)?;
            }
        }
    }
    Ok(())
}

fn remove_cgroups(plan: Plan) -> Result<()> {
    for hierarchy in hierarchies()? {
        let root = hierarchy.join(plan.cgroup());
        run::until(&format!("removing the cgroup {}", root.display()), GONE_WITHIN, || {
            remove_tree(&root)
        })?;
    }
    Ok(())
}

/// Cgroups are removed from the leaves up; their files go by themselves.
fn remove_tree(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))
}
