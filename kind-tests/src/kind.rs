//! # The provider `kind`
//!
//! Job: two kind clusters on docker or podman, for those who have an engine; LoadBalancer addresses in the
//! engine's own network.
//! May touch: the clusters `east` and `west` of kind, their node containers. Callers: `main`, suites.

use crate::{kubectl::Kubectl, provider::Provider, run};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const NAMES: [&str; 2] = ["east", "west"];
const NETWORK: &str = "kind";

/// Clusters in containers.
#[derive(Debug)]
pub(crate) struct Kind {
    state: PathBuf,
}

impl Kind {
    /// The clusters whose kubeconfig is in `state`.
    pub(crate) fn new(state: PathBuf) -> Self {
        Self { state }
    }

    fn kind(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("kind");
        if engine()? == "podman" {
            command.env("KIND_EXPERIMENTAL_PROVIDER", "podman");
        }
        run::output(command.args(args))
            .context("kind, which https://kind.sigs.k8s.io tells how to install")
    }

    fn existing(&self) -> Result<Vec<&'static str>> {
        let all = self.kind(&["get", "clusters"])?;
        Ok(NAMES.into_iter().filter(|name| all.lines().any(|line| line == *name)).collect())
    }

    fn create(&self, number: usize, name: &str) -> Result<()> {
        let config = format!(
            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n\
             networking: {{podSubnet: 10.{}.0.0/16, serviceSubnet: 10.{}.0.0/16}}\n",
            42 + number,
            96 + number
        );
        let path = self.state.join(format!("{name}.yaml"));
        fs::write(&path, config)?;
        let config = path.display().to_string();
        self.kind(&["create", "cluster", "--name", name, "--config", &config, "--wait", "120s"])?;
        Ok(())
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let mut files = Vec::new();
        for name in NAMES {
            let path = self.state.join(format!("{name}.kubeconfig"));
            // kind calls the context kind-NAME; nothing else in the file has that value.
            let text = self.kind(&["get", "kubeconfig", "--name", name])?;
            fs::write(&path, text.replace(&format!("kind-{name}"), name))?;
            files.push(path.display().to_string());
        }
        let merged = run::output(
            Command::new("kubectl")
                .args(["config", "view", "--flatten", "--raw"])
                .env("KUBECONFIG", files.join(":")),
        )?;
        fs::write(self.state.join("kubeconfig"), merged)?;
        Ok(())
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
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
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
        if command.contains("balance") {
            run::line(&format!("kill {pid}"))?;
        }
        fs::remove_file(self.balancer_file())?;
        Ok(())
    }

    /// Gives every LoadBalancer Service of both clusters an address, until stopped.
    ///
    /// # Errors
    /// When the engine's network cannot be read.
    pub(crate) fn balance(&self) -> Result<()> {
        let network = network()?;
        loop {
            for (number, name) in NAMES.into_iter().enumerate() {
                // The API server may be busy; the next round asks again.
                let _ = self.on(name).and_then(|kubectl| assign(&kubectl, network, number));
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// docker if it is there, else podman.
fn engine() -> Result<&'static str> {
    ["docker", "podman"]
        .into_iter()
        .find(|engine| run::program(engine, ["--version"]).is_ok())
        .context("neither docker nor podman is here: install one, or use --provider local as root")
}

/// The first address of the IPv4 network of kind's containers.
fn network() -> Result<Ipv4Addr> {
    let text = run::program(engine()?, ["network", "inspect", NETWORK])?;
    let found: Value = serde_json::from_str(&text)?;
    let docker = found[0]["IPAM"]["Config"].as_array();
    let subnets = docker.or_else(|| found[0]["subnets"].as_array()).into_iter().flatten();
    subnets
        .filter_map(|s| s["Subnet"].as_str().or_else(|| s["subnet"].as_str()))
        .find_map(|subnet| subnet.split('/').next()?.parse().ok())
        .context("the network of kind has no IPv4 range")
}

fn assign(kubectl: &Kubectl, network: Ipv4Addr, number: usize) -> Result<()> {
    let services = kubectl.get("services --all-namespaces")?;
    let items = services["items"].as_array().cloned().unwrap_or_default();
    let given =
        |s: &Value| s["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned);
    let taken: BTreeSet<String> = items.iter().filter_map(given).collect();
    let [a, b, ..] = network.octets();
    let third = 200 + u8::try_from(number)?;
    let mut free = (1..255)
        .map(|last| Ipv4Addr::new(a, b, third, last).to_string())
        .filter(|ip| !taken.contains(ip));
    for service in &items {
        if service["spec"]["type"] != "LoadBalancer" || given(service).is_some() {
            continue;
        }
        let meta = &service["metadata"];
        let (Some(namespace), Some(name)) = (meta["namespace"].as_str(), meta["name"].as_str())
        else {
            bail!("a Service without a name");
        };
        let ip = free.next().context("all LoadBalancer addresses are given out")?;
        let node = format!("{}-control-plane", kubectl.context);
        run::line(&format!("{} exec {node} ip addr replace {ip}/32 dev eth0", engine()?))?;
        let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{ip}"}}]}}}}}}"#);
        kubectl.run(&[
            "patch",
            "service",
            name,
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])?;
    }
    Ok(())
}

impl Provider for Kind {
    fn prepare(&self) -> Result<()> {
        self.existing().map(drop)
    }

    fn up(&self) -> Result<()> {
        fs::create_dir_all(&self.state)?;
        let existing = self.existing()?;
        for (number, name) in NAMES.into_iter().enumerate() {
            if !existing.contains(&name) {
                self.create(number, name)?;
            }
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
        let format = format!("{{{{(index .NetworkSettings.Networks \"{NETWORK}\").IPAddress}}}}");
        let node = format!("{cluster}-control-plane");
        let ip = run::program(engine()?, ["inspect", "-f", &format, &node])?;
        Ok(format!("https://{}:6443", ip.trim()))
    }

    fn status(&self) -> Result<Vec<String>> {
        let existing = self.existing()?;
        let state = |name: &str| if existing.contains(&name) { "running" } else { "not running" };
        Ok(NAMES.map(|name| format!("{name}: {}", state(name))).into())
    }

    fn down(&self) -> Result<()> {
        self.stop_balancer()?;
        for name in NAMES {
            self.kind(&["delete", "cluster", "--name", name])?;
        }
        Ok(())
    }

    fn logs(&self) -> PathBuf {
        let folder = self.state.join("logs");
        for name in NAMES {
            // What cannot be had is missing in the folder.
            let _ = self.kind(&[
                "export",
                "logs",
                "--name",
                name,
                &folder.join(name).display().to_string(),
            ]);
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
