//! # What the machine must have
//!
//! Job: say in one sentence each what is missing to run clusters here, with the remedy; install the Debian packages.
//! May touch: the package manager, the build scripts. Callers: `local`.

use super::plan;
use crate::run;
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where Debian puts CNI plugins.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A program or file, and the Debian package that has it.
const NEEDED: [(&str, &str); 6] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
];

/// Free space that two clusters and their images need, in MiB.
const DISK: u64 = 3_000;

/// The programs that are built from their Go modules.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// All of Kubernetes, kubectl and CoreDNS included.
    pub(crate) kubernetes: PathBuf,
    /// What holds a Pod's namespaces.
    pub(crate) pause: PathBuf,
}

/// The programs, built if they are not in the cache.
///
/// # Errors
/// When Go is missing or too old, or the build fails.
pub(crate) fn binaries() -> Result<Binaries> {
    Ok(Binaries { kubernetes: built("k8s")?, pause: built("pause")? })
}

/// The binary that a folder's build script makes; its progress goes to standard error.
///
/// # Errors
/// When the script fails.
pub(crate) fn built(folder: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("build.sh");
    let path = run::long(Command::new(&script).stdout(Stdio::piped()))?;
    Ok(PathBuf::from(path.trim()))
}

/// Everything that can be known before anything is made.
///
/// # Errors
/// With the first thing that is missing.
pub(crate) fn check(state: &Path) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the provider `local` makes namespaces and mounts: run it as root, or use --provider kind"
    );
    ensure!(cfg!(target_os = "linux"), "the provider `local` needs Linux; use --provider kind");
    capabilities()?;
    packages()?;
    containerd_version()?;
    kernel()?;
    routes()?;
    let free: u64 =
        run::program("df", ["--output=avail".as_ref(), "-BM".as_ref(), state.as_os_str()])?
            .lines()
            .last()
            .and_then(|l| l.trim().trim_end_matches('M').parse().ok())
            .context("cannot read the output of df")?;
    ensure!(
        free >= DISK,
        "{} has {free} MiB free and two clusters need {DISK}: free some, or name another folder with --state",
        state.display()
    );
    Ok(())
}

/// Root in a container often has but a part of root's rights.
fn capabilities() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status names no capabilities")?;
    let missing: Vec<&str> = [("CAP_NET_ADMIN", 12), ("CAP_SYS_CHROOT", 18), ("CAP_SYS_ADMIN", 21)]
        .into_iter()
        .filter(|(_, bit)| mask & (1 << bit) == 0)
        .map(|(name, _)| name)
        .collect();
    ensure!(
        missing.is_empty(),
        "root has no {} here, without which there are no namespaces and mounts: run on a machine or in a privileged container",
        missing.join(" and no ")
    );
    Ok(())
}

fn missing() -> Vec<&'static str> {
    NEEDED.into_iter().filter(|(file, _)| !present(file)).map(|(_, package)| package).collect()
}

fn packages() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    ensure!(
        present("apt-get"),
        "missing here: {names}. This is no Debian: install them with this system's package manager, the CNI plugins in {CNI_PLUGINS}"
    );
    crate::note(&format!("installing {names}"));
    let install = || {
        run::output(
            Command::new("apt-get")
                .args(["install", "-y", "-q", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // The package lists may be older than the mirror.
    install().or_else(|_| run::line("apt-get update -q").and_then(|_| install())).with_context(
        || format!("cannot install {names}: try `apt-get install {names}` by hand"),
    )?;
    let missing = self::missing();
    ensure!(
        missing.is_empty(),
        "{0} is installed, but its files are not where Debian puts them: try `apt-get install --reinstall {0}`",
        missing.join(" ")
    );
    Ok(())
}

fn present(program: &str) -> bool {
    match program.starts_with('/') {
        true => Path::new(program).exists(),
        false => ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists()),
    }
}

fn containerd_version() -> Result<()> {
    let text = run::line("containerd --version")?;
    let version = text
        .split_whitespace()
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit() || c == 'v') && w.contains('.'));
    let mut numbers = version
        .map(|v| v.trim_start_matches('v').split('.').map_while(|n| n.parse::<u32>().ok()))
        .context("`containerd --version` prints no version")?;
    let have = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ensure!(
        have >= (1, 6) && have.0 < 3,
        "containerd {}.{} is installed; 1.6 to 2.x works: install Debian's package `containerd`",
        have.0,
        have.1
    );
    Ok(())
}

/// Tried in a namespace of its own, which ends with the trial.
fn kernel() -> Result<()> {
    let trials = [
        ("network namespaces and veth", "ip link add name trial0 type veth peer name trial1"),
        ("bridges", "ip link add name trial type bridge"),
        ("NAT with iptables", "iptables -w -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 1"),
        ("nf_tables", "nft add table ip trial"),
    ];
    for (what, trial) in trials {
        run::line(&format!("unshare --net {trial}")).with_context(|| {
            format!(
                "this kernel lacks {what}, which clusters need: use a machine whose kernel has it"
            )
        })?;
    }
    let filesystems = fs::read_to_string("/proc/filesystems")?;
    if !filesystems.contains("overlay") && run::line("modprobe overlay").is_err() {
        bail!(
            "this kernel lacks overlayfs, which containers need: use a machine whose kernel has it"
        );
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(
        mounts.lines().any(|l| l.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"))),
        "no cgroups are mounted under /sys/fs/cgroup, which kubelets need: mount them"
    );
    Ok(())
}

/// Somebody else's network on our addresses would take the traffic.
fn routes() -> Result<()> {
    let (network, mask) = (u32::from(plan::HOST) & 0xffff_0000, 0xffff_0000);
    for line in run::line("ip -4 route show")?.lines() {
        let to = line.split_whitespace().next().unwrap_or_default();
        let address = to.split('/').next().and_then(|a| a.parse::<Ipv4Addr>().ok());
        let ours = line.contains(&format!("dev {}", plan::BRIDGE));
        ensure!(
            ours || address.is_none_or(|a| u32::from(a) & mask != network),
            "the range {} is taken here (`{}`): remove that network first",
            plan::NODES,
            line.trim()
        );
    }
    Ok(())
}
