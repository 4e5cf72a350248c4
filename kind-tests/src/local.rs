//! # The provider `local`
//!
//! Job: two clusters of one node each on this machine without a container engine: real Kubernetes servers and
//! containerd, each cluster in namespaces of its own, a bridge between.
//! May touch: namespaces, links, cgroups and mounts that bear our names; the state folder. Callers: `main`, suites.
//!
//! Nothing is remembered but the logs: what runs is found by the names of its namespaces, so that a run that was killed
//! is cleaned up as well as one that ended.

mod balancer;
mod components;
mod files;
mod host;
mod net;
mod node;
mod pause;
mod plan;

use crate::{
    provider::{self, Provider},
    run,
};
use anyhow::{Context, Result, bail, ensure};
use files::Files;
use host::Binaries;
use plan::{CLUSTERS, Plan};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const READY_WITHIN: Duration = Duration::from_secs(90);

/// Clusters of this machine.
#[derive(Debug)]
pub(crate) struct Local {
    state: PathBuf,
}

impl Local {
    /// The clusters whose files are in `state`.
    pub(crate) fn new(state: PathBuf) -> Self {
        Self { state }
    }

    fn files(&self, plan: Plan) -> Files {
        Files::of(plan, &self.state)
    }

    /// One verb at a time; the lock goes with the process.
    fn lock(&self) -> Result<File> {
        provider::make_state(&self.state)?;
        let lock = File::create(self.state.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!(
                "another run is busy in {}: wait for it, or name another folder with --state",
                self.state.display()
            );
        }
        Ok(lock)
    }

    fn ready(&self, plan: Plan) -> Result<()> {
        ensure!(net::first_process(plan).is_some(), "the node of {} does not run", plan.name);
        let kubectl = self.on(plan.name)?;
        let node = kubectl.get(&format!("node {}", plan.node_name()))?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(ready, "the node of {} is not Ready", plan.name);
        kubectl.line("get serviceaccount default -n default")?;
        Ok(())
    }

    /// Ours only: two runs with folders of their own cannot share the names of namespaces.
    fn refuse_foreign(&self) -> Result<()> {
        match net::owner() {
            Some(owner)
                if owner != self.state
                    && CLUSTERS.into_iter().any(|p| net::first_process(p).is_some()) =>
            {
                bail!(
                    "clusters of {0} are running: end them first with `down --state {0}`",
                    owner.display()
                )
            }
            _ => Ok(()),
        }
    }

    fn make(&self, binaries: &Binaries) -> Result<()> {
        remove_folder(&self.logs())?;
        net::make_bridge(&self.state)?;
        let mut nodes = Vec::new();
        for plan in CLUSTERS {
            self.files(plan).write()?;
            net::make_namespace(plan)?;
            net::make_cgroups(plan)?;
            nodes.push((plan, self.start(plan, binaries)?));
        }
        self.write_kubeconfig()?;
        let pause = pause::archive(&binaries.pause, &self.state.join("pause"))?;
        for (plan, node) in &mut nodes {
            wait(node, "containerd", || self.import(*plan, &pause))?;
        }
        for (plan, node) in &mut nodes {
            wait(node, "the node", || self.ready(*plan))?;
        }
        Ok(())
    }

    /// The node as a process tree that outlives this program.
    fn start(&self, plan: Plan, binaries: &Binaries) -> Result<Child> {
        let files = self.files(plan);
        let log = File::create(files.log("node"))?;
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", plan.netns()))
            .args([
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--uts",
                "--ipc",
                "--mount-proc",
            ])
            .arg(std::env::current_exe()?)
            .arg("--state")
            .arg(&self.state)
            .args(["node", plan.name, "--kubernetes"])
            .arg(&binaries.kubernetes)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start nsenter")
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let admins: Vec<String> = CLUSTERS
            .iter()
            .map(|plan| self.files(*plan).kubeconfig("admin").display().to_string())
            .collect();
        let mut command = Command::new(self.kubectl()?);
        command.args(["kubectl", "config", "view", "--flatten", "--raw"]);
        let merged = run::output(command.env("KUBECONFIG", admins.join(":")))?;
        let path = self.state.join("kubeconfig");
        fs::write(&path, merged).with_context(|| format!("cannot write {}", path.display()))
    }

    fn import(&self, plan: Plan, archive: &Path) -> Result<()> {
        let node = net::first_process(plan).with_context(|| {
            format!("{} is not up: run `up` first; its logs: {}", plan.name, self.logs().display())
        })?;
        let archive = fs::canonicalize(archive)
            .with_context(|| format!("cannot read {}", archive.display()))?;
        run::output(
            Command::new("nsenter")
                .args(["--mount", "--net", "--pid", "--target", &node.as_raw_nonzero().to_string()])
                .args(["ctr", "--namespace=k8s.io", "images", "import", "--all-platforms"])
                .arg(archive),
        )?;
        Ok(())
    }
}

impl Provider for Local {
    fn check(&self) -> Result<()> {
        let _lock = self.lock()?;
        host::check(&self.state)?;
        self.refuse_foreign()
    }

    fn build(&self) -> Result<()> {
        host::binaries().map(drop)
    }

    fn up(&self) -> Result<()> {
        let _lock = self.lock()?;
        host::check(&self.state)?;
        self.refuse_foreign()?;
        let binaries = host::binaries()?;
        if CLUSTERS.into_iter().all(|plan| self.ready(plan).is_ok()) {
            return Ok(());
        }
        remove(&self.state)?;
        self.make(&binaries).map_err(|error| {
            run::clear_stop();
            // The first error is the one to tell.
            let _ = remove(&self.state);
            error.context(format!(
                "the clusters did not come up; all logs: {}",
                self.logs().display()
            ))
        })
    }

    fn load_image(&self, archive: &Path) -> Result<()> {
        for plan in CLUSTERS {
            self.import(plan, archive)?;
        }
        Ok(())
    }

    fn kubeconfig(&self) -> Result<PathBuf> {
        let path = self.state.join("kubeconfig");
        ensure!(path.exists(), "no clusters are up: run `up` first");
        Ok(path)
    }

    fn api_address(&self, cluster: &str) -> Result<String> {
        let plan = Plan::of(cluster).with_context(|| format!("no cluster is called {cluster}"))?;
        Ok(plan.api())
    }

    fn status(&self) -> Result<Vec<String>> {
        Ok(CLUSTERS
            .into_iter()
            .map(|plan| match (net::first_process(plan), self.ready(plan)) {
                (None, _) => format!("{}: not running", plan.name),
                (Some(pid), ready) => format!(
                    "{}: {}, API {}, node is process {}, Pods {}, Services {}, DNS {}",
                    plan.name,
                    ready.map_or_else(|e| format!("not ready ({e})"), |()| "Ready".into()),
                    plan.api(),
                    pid.as_raw_nonzero(),
                    plan.pods(),
                    plan.services(),
                    plan.dns_service(),
                ),
            })
            .collect())
    }

    fn down(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.refuse_foreign()?;
        remove(&self.state)
    }

    fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    fn cni_folders(&self, cluster: &str) -> Result<(PathBuf, PathBuf)> {
        let plan = Plan::of(cluster).with_context(|| format!("no cluster is called {cluster}"))?;
        let files = self.files(plan);
        Ok((files.path("cni/conf"), files.path("cni/bin")))
    }

    fn audit_log(&self, cluster: &str) -> Option<PathBuf> {
        Plan::of(cluster).map(|plan| self.files(plan).log("audit"))
    }

    fn kubectl(&self) -> Result<PathBuf> {
        host::built("k8s")
    }

    fn set_link(&self, cluster: &str, up: bool) -> Result<()> {
        let plan = Plan::of(cluster).with_context(|| format!("no cluster is called {cluster}"))?;
        net::set_link(plan, up)
    }
}

/// Waits for something that a node does, as long as the node lives.
fn wait(node: &mut Child, what: &str, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    run::until(what, READY_WITHIN, || match (probe(), node.try_wait()?) {
        (Err(error), Some(status)) => Ok(Err(error.context(format!("the node ended ({status})")))),
        (done, _) => done.map(Ok),
    })?
}

/// Everything but the logs.
fn remove(state: &Path) -> Result<()> {
    net::remove()?;
    for plan in CLUSTERS {
        remove_folder(&state.join(plan.name))?;
    }
    remove_folder(&state.join("pause"))?;
    let kubeconfig = state.join("kubeconfig");
    if kubeconfig.exists() {
        fs::remove_file(kubeconfig)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The first process of a cluster's namespaces.
///
/// # Errors
/// When the node ends.
pub(crate) fn first_process() -> Result<()> {
    let mut work = Command::new(std::env::current_exe()?);
    node::first(work.args(std::env::args_os().skip(1)).arg("--servers"))
}

/// The servers of a cluster, below [`first_process`].
///
/// # Errors
/// When one does not start.
pub(crate) fn servers(state: &Path, cluster: &str, kubernetes: PathBuf) -> Result<()> {
    let plan = Plan::of(cluster).with_context(|| format!("no cluster is called {cluster}"))?;
    let binaries = Binaries { kubernetes, pause: PathBuf::new() };
    node::run(&Files::of(plan, state), &binaries)
}
