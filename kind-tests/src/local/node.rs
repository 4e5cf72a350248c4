//! # The node
//!
//! Job: the first process of a cluster's namespaces: mounts what must be the node's own, starts the servers in
//! order, gives out LoadBalancer addresses, and ends with all of it when it is killed.
//! May touch: mounts of its own namespace, its child processes. Callers: `main`, inside `unshare`.

use super::{
    balancer,
    components::{self, Component},
    files::Files,
    host::Binaries,
};
use crate::run;
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const STARTED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What kubelet would write for the whole machine; it writes into these copies instead.
const MACHINE_WIDE: [&str; 4] =
    ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom"];

/// Process 1: starts the real work as a child and reaps whatever loses its parent.
///
/// # Errors
/// When the child ends, which it does on an error only.
pub(crate) fn first(work: &mut Command) -> Result<()> {
    let child = work.spawn().context("cannot start the node")?;
    loop {
        let (pid, status) = rustix::process::wait(rustix::process::WaitOptions::empty())?
            .context("the node has no processes")?;
        if pid.as_raw_nonzero().get().cast_unsigned() == child.id() {
            bail!("the node's servers ended ({status:?})");
        }
    }
}

/// Everything else: never returns unless something fails.
///
/// # Errors
/// With the first server that did not start.
pub(crate) fn run(files: &Files, binaries: &Binaries) -> Result<()> {
    mounts(files)?;
    fs::write("/proc/sys/kernel/hostname", files.plan.node_name())?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let mut servers = Servers { files, binaries, running: Vec::new() };
    servers.start(&components::etcd(files))?;
    servers.start(&components::containerd(files))?;
    servers.start(&components::api_server(files))?;
    servers.wait("the API server", || {
        run::output(kubectl(binaries, files).args(["get", "--raw=/readyz"]))
    })?;
    for component in [
        components::controller_manager(files),
        components::scheduler(files),
        components::proxy(files),
        components::dns(files),
    ] {
        servers.start(&component)?;
    }
    servers.wait("containerd", || run::line("ctr version"))?;
    servers.start(&components::kubelet(files))?;
    let objects = files.path("objects.yaml");
    servers.wait("the first objects", || {
        run::output(kubectl(binaries, files).arg("apply").arg("-f").arg(&objects))
    })?;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            loop {
                if let Err(error) = balancer::serve(files, || kubectl(binaries, files)) {
                    crate::note(&format!("LoadBalancer addresses: {error:#}"));
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        loop {
            servers.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
    })
}

/// kubectl with all rights on the cluster.
fn kubectl(binaries: &Binaries, files: &Files) -> Command {
    let mut command = Command::new(&binaries.kubernetes);
    command.arg("kubectl").arg("--kubeconfig").arg(files.kubeconfig("admin"));
    command
}

struct Servers<'a> {
    files: &'a Files,
    binaries: &'a Binaries,
    running: Vec<(&'static str, Child)>,
}

impl Servers<'_> {
    fn start(&mut self, component: &Component) -> Result<()> {
        let path = self.files.log(component.name);
        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = match component.name {
            "containerd" => Command::new("containerd"),
            name => {
                let mut command = Command::new(&self.binaries.kubernetes);
                command.arg(name);
                command
            }
        };
        let child = command
            .args(&component.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", component.name))?;
        self.running.push((component.name, child));
        Ok(())
    }

    fn wait(&mut self, what: &str, mut probe: impl FnMut() -> Result<String>) -> Result<()> {
        run::until(what, STARTED_WITHIN, || {
            let probed = probe();
            self.look()?;
            probed
        })?;
        Ok(())
    }

    /// A server that ended takes the node down: half a cluster only confuses.
    fn look(&mut self) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                crate::note(&format!(
                    "{name} ended ({status}); its log: {}",
                    self.files.log(name).display()
                ));
                std::process::exit(1);
            }
        }
        Ok(())
    }
}

/// The node's own /run, /var/lib and /var/log; no resolver, so that a missing image fails at once; plain files where
/// kubelet would change the machine.
fn mounts(files: &Files) -> Result<()> {
    run::line("mount --make-rshared /")?;
    run::line("mount -t tmpfs -o mode=755 tmpfs /run")?;
    let folders = [
        ("/var/lib/kubelet", files.path("kubelet")),
        ("/var/lib/containerd", files.path("containerd")),
        ("/var/lib/cni", files.path("cni/results")),
        ("/var/log", files.logs().to_owned()),
        ("/etc/resolv.conf", files.path("resolv.conf")),
    ];
    for (at, own) in folders {
        if !Path::new(at).exists() {
            fs::create_dir_all(at).with_context(|| format!("cannot make {at}"))?;
        }
        bind(&own, at)?;
    }
    for name in MACHINE_WIDE {
        let at = format!("/proc/sys/{name}");
        let copy = files.path("sysctl").join(name.replace('/', "."));
        fs::write(&copy, fs::read_to_string(&at)?)?;
        bind(&copy, &at)?;
    }
    Ok(())
}

fn bind(own: &Path, at: &str) -> Result<()> {
    run::program("mount", ["--bind".as_ref(), own.as_os_str(), at.as_ref()])?;
    Ok(())
}
