//! # A real control plane on loopback
//!
//! Job: etcd, kube-apiserver and kube-controller-manager from one binary, on ports of their own, with
//! a kubeconfig of full rights; all ended when dropped.
//! May touch: child processes, a temporary folder. Callers: the suites.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::Read,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The bearer token of the suite's administrator; the server is on loopback and lives for a minute.
const TOKEN: &str = "api-suite";
const LIMIT: Duration = Duration::from_secs(60);

/// Running servers.
pub(crate) struct ControlPlane {
    children: Vec<Child>,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts all three and waits until the API server is ready.
    ///
    /// # Errors
    /// With the end of the log of the server that did not come up.
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut plane = Self { children: Vec::new(), folder };
        let [etcd, peer, api] = free_ports()?;
        plane.write_files(api)?;
        let dir = plane.dir();
        let path = |name: &str| dir.join(name).display().to_string();
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        plane.spawn(
            binary,
            "etcd",
            &[
                format!("--data-dir={}", path("etcd")),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync".into(),
            ],
        )?;
        plane.spawn(
            binary,
            "kube-apiserver",
            &[
                format!("--etcd-servers={etcd_url}"),
                format!("--secure-port={api}"),
                "--bind-address=127.0.0.1".into(),
                format!("--cert-dir={}", path("certs")),
                format!("--token-auth-file={}", path("tokens.csv")),
                "--authorization-mode=RBAC".into(),
                "--anonymous-auth=true".into(),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
                format!("--service-account-key-file={}", path("sa.pub")),
                format!("--service-account-signing-key-file={}", path("sa.key")),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--endpoint-reconciler-type=none".into(),
            ],
        )?;
        plane.wait_ready(api)?;
        plane.spawn(
            binary,
            "kube-controller-manager",
            &[
                format!("--kubeconfig={}", path("kubeconfig")),
                "--leader-elect=false".into(),
                "--use-service-account-credentials=false".into(),
                format!("--service-account-private-key-file={}", path("sa.key")),
                format!("--root-ca-file={}", path("certs/apiserver.crt")),
                "--secure-port=0".into(),
            ],
        )?;
        Ok(plane)
    }

    /// Where to find it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// Copies the logs to a folder that stays, and names it.
    pub(crate) fn keep_logs(&self) -> String {
        let kept = std::env::temp_dir().join(format!("mesh-api-suite-{}", std::process::id()));
        let copied = fs::create_dir_all(&kept).and_then(|()| {
            for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
                fs::copy(self.dir().join(format!("{name}.log")), kept.join(format!("{name}.log")))?;
            }
            Ok(())
        });
        copied.map_or_else(|e| format!("lost ({e})"), |()| kept.display().to_string())
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn write_files(&self, api: u16) -> Result<()> {
        let key = rcgen::KeyPair::generate().context("cannot make a key")?;
        fs::write(self.dir().join("sa.key"), key.serialize_pem())?;
        fs::write(self.dir().join("sa.pub"), key.public_key_pem())?;
        fs::write(
            self.dir().join("tokens.csv"),
            format!("{TOKEN},admin,admin,\"system:masters\"\n"),
        )?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: real\n\
             clusters: [{{name: real, cluster: {{server: 'https://127.0.0.1:{api}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: admin, user: {{token: {TOKEN}}}}}]\n\
             contexts: [{{name: real, context: {{cluster: real, user: admin}}}}]\n"
        );
        fs::write(self.kubeconfig(), kubeconfig)?;
        Ok(())
    }

    fn spawn(&mut self, binary: &Path, name: &str, args: &[String]) -> Result<()> {
        let log = File::create(self.dir().join(format!("{name}.log")))?;
        let child = Command::new(binary)
            .arg(name)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {} {name}", binary.display()))?;
        self.children.push(child);
        Ok(())
    }

    /// The API server speaks TLS; its log tells when it serves, so no client is needed here.
    fn wait_ready(&mut self, api: u16) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if healthy(api, &self.dir().join("kube-apiserver.log")) {
                return Ok(());
            }
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("a server ended early ({status}):\n{}", self.last_lines());
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "kube-apiserver was not ready within {} s:\n{}",
                    LIMIT.as_secs(),
                    self.last_lines()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn last_lines(&self) -> String {
        let mut text = String::new();
        for name in ["etcd", "kube-apiserver"] {
            let log =
                fs::read_to_string(self.dir().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("{name}:\n{}\n", lines[lines.len().saturating_sub(8)..].join("\n"));
        }
        text
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself; then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ready when it accepts connections and its bootstrap roles are written.
fn healthy(port: u16, log: &Path) -> bool {
    if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        return false;
    }
    let mut text = String::new();
    let read = File::open(log).and_then(|mut f| f.read_to_string(&mut text));
    read.is_ok() && text.contains("all system priority classes are created successfully")
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }

    Ok(ports)
}
