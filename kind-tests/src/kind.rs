//! # The provider `kind`
//!
//! Job: two kind clusters on docker or podman, for those who have an engine.
//! May touch: the clusters `east` and `west` of kind that it made, their node containers, the state folder; never the
//! user's own kubeconfig. Callers: `main`, suites.

mod balancer;
mod engine;

use crate::{
    kubectl::Kubectl,
    note,
    provider::{self, Provider},
    run,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use engine::Engine;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

const NAMES: [&str; 2] = ["east", "west"];
const NETWORK: &str = "kind";
const READY_WITHIN: Duration = Duration::from_secs(120);
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// Clusters in containers.
#[derive(Debug)]
pub(crate) struct Kind {
    state: PathBuf,
    image: Option<String>,
    engine: OnceLock<Engine>,
}

/// The container of a cluster's one node.
fn node(cluster: &str) -> String {
    format!("{cluster}-control-plane")
}

impl Kind {
    /// The clusters whose files are in `state`; nodes are made of `image`, or of what kind takes by itself.
    pub(crate) fn new(state: PathBuf, image: Option<String>) -> Self {
        Self { state, image: image.filter(|name| !name.is_empty()), engine: OnceLock::new() }
    }

    fn engine(&self) -> Result<Engine> {
        match self.engine.get() {
            Some(engine) => Ok(*engine),
            None => Engine::find().map(|found| *self.engine.get_or_init(|| found)),
        }
    }

    fn kind(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("kind");
        command.env(engine::VARIABLE, self.engine()?.program()).args(args);
        let done = run::finish(&mut command, None)?;
        if !done.status.success() {
            // Ctrl-C is meant for kind, too.
            ensure!(!run::stopped(), "interrupted");
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("`{}` failed: {}", run::shown(&command), fault(&said));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn existing(&self) -> Result<Vec<&'static str>> {
        let all = self.kind(&["get", "clusters"])?;
        Ok(NAMES.into_iter().filter(|name| all.lines().any(|line| line == *name)).collect())
    }

    /// What kind was told of a cluster. It is there as long as the cluster may be: by it ours are told from others.
    fn config(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.yaml"))
    }

    fn own_kubeconfig(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.kubeconfig"))
    }

    fn ours(&self, name: &str) -> bool {
        self.config(name).exists()
    }

    fn create(&self, number: usize, name: &str) -> Result<()> {
        let config = format!(
            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n\
             networking: {{podSubnet: 10.{}.0.0/16, serviceSubnet: 10.{}.0.0/16}}\n",
            42 + number,
            96 + number
        );
        fs::write(self.config(name), config)?;
        let (config, kubeconfig) = (self.config(name), self.own_kubeconfig(name));
        let (config, kubeconfig) = (config.display().to_string(), kubeconfig.display().to_string());
        let wait = format!("{}s", READY_WITHIN.as_secs());
        let mut args = vec!["create", "cluster", "--name", name, "--config", &config];
        args.extend(["--kubeconfig", &kubeconfig, "--wait", &wait]);
        args.extend(self.image.iter().flat_map(|image| ["--image", image]));
        note(&format!("making the cluster {name}; its first time, kind pulls the node image"));
        self.kind(&args).map(drop).map_err(|error| {
            let interrupted = run::stopped();
            // Half a cluster may be left. The first error is the one to tell.
            run::clear_stop();
            let _ = self.delete(name);
            match format!("{error:#}") {
                _ if interrupted => anyhow!("interrupted; {name} is not made"),
                said if said.contains("pull image") => {
                    anyhow!("{said}; name a node image that can be had in MESH_KIND_IMAGE")
                }
                said => anyhow!("{said}"),
            }
        })
    }

    fn delete(&self, name: &str) -> Result<()> {
        let kubeconfig = self.own_kubeconfig(name).display().to_string();
        self.kind(&["delete", "cluster", "--name", name, "--kubeconfig", &kubeconfig])?;
        for file in [self.config(name), self.own_kubeconfig(name)] {
            remove_file(&file)?;
        }
        Ok(())
    }

    /// Whether a cluster that exists does its work.
    fn ready(&self, name: &str, limit: Duration) -> Result<()> {
        let path = self.own_kubeconfig(name);
        let text = self.kind(&["get", "kubeconfig", "--name", name])?;
        // kind calls the context kind-NAME; nothing else in the file has that value.
        fs::write(&path, text.replace(&format!("kind-{name}"), name))?;
        let kubectl = Kubectl::new(self.kubectl()?, path, name);
        run::until("an answer of the API server", limit, || {
            kubectl.line("get --raw=/readyz --request-timeout=5s")
        })?;
        let limit = limit.as_secs();
        kubectl.line(&format!("wait --for=condition=Ready nodes --all --timeout={limit}s"))?;
        Ok(())
    }

    /// A cluster that works: the one that is there, or a new one.
    fn make(&self, number: usize, name: &str, exists: bool) -> Result<()> {
        if exists {
            match self.ready(name, ANSWERS_WITHIN) {
                Ok(()) => return Ok(()),
                Err(error) if run::stopped() => return Err(error),
                Err(_) => note(&format!("{name} does not answer and is made anew")),
            }
            self.delete(name)?;
        }
        self.create(number, name)?;
        self.ready(name, READY_WITHIN)
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let files = NAMES.map(|name| self.own_kubeconfig(name).display().to_string());
        let merged = run::output(
            Command::new(self.kubectl()?)
                .args(["config", "view", "--flatten", "--raw"])
                .env("KUBECONFIG", files.join(":")),
        )?;
        let path = self.state.join("kubeconfig");
        // It holds keys. A file of kind's own is for its owner alone, and so is a copy of it.
        fs::copy(self.own_kubeconfig(NAMES[0]), &path)?;
        fs::write(&path, merged).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The process that gives out LoadBalancer addresses while the clusters are up.
    fn balancer_file(&self) -> PathBuf {
        self.state.join("balancer.pid")
    }

    fn start_balancer(&self) -> Result<()> {
        self.stop_balancer()?;
        let child = Command::new(std::env::current_exe()?)
            .arg("--state")
            .arg(&self.state)
            .arg("balance")
            .env(engine::VARIABLE, self.engine()?.program())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.state.join("balancer.log"))?)
            // Ctrl-C in a later `demo` is not meant for it.
            .process_group(0)
            .spawn()
            .context("cannot start the balancer")?;
        fs::write(self.balancer_file(), child.id().to_string())?;
        Ok(())
    }

    fn stop_balancer(&self) -> Result<()> {
        let Ok(text) = fs::read_to_string(self.balancer_file()) else { return Ok(()) };
        let pid: i32 = text.trim().parse().context("balancer.pid holds no number")?;
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // The number may be somebody else's by now.
        if command.contains("balance") && command.contains(&self.state.display().to_string()) {
            run::line(&format!("kill {pid}"))?;
        }
        remove_file(&self.balancer_file())
    }

    /// Gives every LoadBalancer Service of both clusters an address, as long as there is a cluster.
    ///
    /// # Errors
    /// When the engine's network cannot be read, or no cluster answers any more.
    pub(crate) fn balance(&self) -> Result<()> {
        balancer::serve(self)
    }

    /// What the engine tells of the network of kind's containers.
    fn network(&self) -> Result<Value> {
        let text = run::program(self.engine()?.program(), ["network", "inspect", NETWORK])?;
        Ok(serde_json::from_str(&text)?)
    }

    fn node_address(&self, cluster: &str) -> Result<String> {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{NETWORK}\").IPAddress}}}}");
        let engine = self.engine()?.program();
        let ip = run::program(engine, ["inspect", "-f", &format, &node(cluster)])?;
        Ok(ip.trim().to_owned())
    }
}

/// What kind says is wrong, and below it the last words of the program that it started; without its progress.
fn fault(said: &str) -> String {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.find_map(|line| line.strip_prefix("ERROR: "));
    // docker's very last words are where to find help.
    let below = lines.rfind(|line| line.contains("Error"));
    match (error, below) {
        (Some(error), Some(below)) => format!("{error}: {below}"),
        (Some(error), None) => error.to_owned(),
        (None, _) => said.lines().next_back().unwrap_or("it does not say why").trim().to_owned(),
    }
}

/// Says which program is missing, and where to get it.
fn installed(program: &str, arguments: &[&str], home: &str) -> Result<()> {
    match Command::new(program).args(arguments).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{program} is missing: install it and have it in PATH ({home})")
        }
        Err(error) => Err(error).with_context(|| format!("cannot start {program}")),
        Ok(_) => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Provider for Kind {
    fn check(&self) -> Result<()> {
        self.engine()?;
        installed("kind", &["version"], "https://kind.sigs.k8s.io")?;
        installed("kubectl", &["version", "--client"], "https://kubernetes.io/docs/tasks/tools")
    }

    fn up(&self) -> Result<()> {
        self.check()?;
        provider::make_state(&self.state)?;
        let existing = self.existing()?;
        if let Some(name) = existing.iter().find(|name| !self.ours(name)) {
            bail!(
                "kind has a cluster {name} that was not made here (by {}): `kind delete cluster --name {name}` removes it",
                self.config(name).display()
            );
        }
        for (number, name) in NAMES.into_iter().enumerate() {
            self.make(number, name, existing.contains(&name))?;
        }
        self.write_kubeconfig()?;
        self.start_balancer()
    }

    fn load_image(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        for name in NAMES {
            self.kind(&["load", "image-archive", &archive, "--name", name])?;
        }
        Ok(())
    }

    fn kubeconfig(&self) -> Result<PathBuf> {
        let path = self.state.join("kubeconfig");
        ensure!(path.exists(), "no clusters are up: run `up` first");
        Ok(path)
    }

    fn api_address(&self, cluster: &str) -> Result<String> {
        Ok(format!("https://{}:6443", self.node_address(cluster)?))
    }

    fn status(&self) -> Result<Vec<String>> {
        self.check()?;
        let existing = self.existing()?;
        let state = |name: &str| match existing.contains(&name) {
            true => self.api_address(name).map(|api| format!("running, API {api} in containers")),
            false => Ok("not running".to_owned()),
        };
        NAMES.into_iter().map(|name| Ok(format!("{name}: {}", state(name)?))).collect()
    }

    fn down(&self) -> Result<()> {
        self.stop_balancer()?;
        self.check()?;
        for name in self.existing()? {
            match self.ours(name) {
                true => self.delete(name)?,
                false => note(&format!(
                    "kind's cluster {name} stays, as it was not made here: `kind delete cluster --name {name}` removes it"
                )),
            }
        }
        for name in NAMES {
            remove_file(&self.config(name))?;
            remove_file(&self.own_kubeconfig(name))?;
        }
        remove_file(&self.state.join("balancer.log"))?;
        remove_file(&self.state.join("kubeconfig"))?;
        match fs::remove_dir_all(self.state.join("ca")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn logs(&self) -> PathBuf {
        let folder = self.state.join("logs");
        for name in NAMES {
            let to = folder.join(name).display().to_string();
            // What cannot be had is missing in the folder.
            let _ = self.kind(&["export", "logs", "--name", name, &to]);
        }
        folder
    }

    fn cni_folders(&self, _: &str) -> Result<(PathBuf, PathBuf)> {
        Ok(("/etc/cni/net.d".into(), "/opt/cni/bin".into()))
    }

    fn audit_log(&self, _cluster: &str) -> Option<PathBuf> {
        None
    }

    fn kubectl(&self) -> Result<PathBuf> {
        Ok(PathBuf::from("kubectl"))
    }

    fn set_link(&self, _cluster: &str, _up: bool) -> Result<()> {
        bail!("the provider kind does not cut links")
    }
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn of_what_kind_says_only_the_fault_is_told() {
        let said = "using podman\nCreating cluster\nERROR: failed to pull image\n\nCommand Output: trying\nError: refused\n\nRun with --help\n";
        assert_eq!(fault(said), "failed to pull image: Error: refused");
        assert_eq!(fault("using podman\nERROR: no node\n"), "no node");
        assert_eq!(fault("first\nlast\n"), "last");
        assert_eq!(fault(""), "it does not say why");
    }
}
