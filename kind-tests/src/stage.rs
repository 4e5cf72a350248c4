//! # The stage of the suites
//!
//! Job: both clusters, the `mesh` command and the certificates, with the verbs that every suite uses.
//! May touch: the clusters through kubectl, `mesh`; a folder for certificates. Callers: suites.

use crate::{kubectl::Kubectl, provider::Provider, run};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// Namespace of the suites' own applications.
pub(crate) const DEMO: &str = "demo";
/// Label that exports a Service.
pub(crate) const EXPORTED: &str = "mirror.linkerd.io/exported";
/// Longest that something may take which takes a second.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Where suites play.
pub(crate) struct Stage<'a> {
    /// Who made the clusters.
    pub(crate) provider: &'a dyn Provider,
    /// The `mesh` command.
    pub(crate) mesh: PathBuf,
    /// Folder of the root CA and an issuer a cluster.
    pub(crate) ca: PathBuf,
    /// The exporting cluster.
    pub(crate) east: Kubectl,
    /// The importing cluster.
    pub(crate) west: Kubectl,
}

impl<'a> Stage<'a> {
    /// A stage on clusters that are up.
    ///
    /// # Errors
    /// When they are not.
    pub(crate) fn new(provider: &'a dyn Provider, mesh: PathBuf, ca: PathBuf) -> Result<Self> {
        let (east, west) = (provider.on("east")?, provider.on("west")?);
        Ok(Self { provider, mesh, ca, east, west })
    }

    /// Both clusters.
    pub(crate) fn both(&self) -> [&Kubectl; 2] {
        [&self.east, &self.west]
    }

    /// What a verb of `mesh` printed on this cluster; the arguments in one line.
    ///
    /// # Errors
    /// When it fails: what it said.
    pub(crate) fn mesh(&self, on: &Kubectl, line: &str) -> Result<String> {
        let done = self.try_mesh(on, line)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(
            done.status.success(),
            "`mesh {line}` on {} failed ({}): {}\n{}",
            on.context,
            done.status,
            text(&done.stderr),
            text(&done.stdout)
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// A verb of `mesh`, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn try_mesh(&self, on: &Kubectl, line: &str) -> Result<Output> {
        let mut command = Command::new(&self.mesh);
        command.args(line.split_whitespace());
        command.arg("--kubeconfig").arg(&on.kubeconfig).args(["--context", &on.context]);
        run::finish(&mut command, None)
    }

    /// `mesh ... | kubectl apply -f -`.
    ///
    /// # Errors
    /// When either fails.
    pub(crate) fn mesh_apply(&self, on: &Kubectl, line: &str) -> Result<()> {
        let manifests = self.mesh(on, line)?;
        on.apply(&manifests).map(drop).with_context(|| format!("applying `mesh {line}`"))
    }

    /// A path in the folder of certificates.
    pub(crate) fn ca_file(&self, name: &str) -> String {
        self.ca.join(name).display().to_string()
    }
}

/// A namespace, meshed or not.
pub(crate) fn namespace(name: &str, meshed: bool) -> Value {
    let inject = if meshed { "enabled" } else { "disabled" };
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "annotations": {"linkerd.io/inject": inject}},
    })
}

/// A Deployment of the demo app with its ServiceAccount, and the Service in front of it.
pub(crate) fn app(namespace: &str, name: &str, cluster: &str, replicas: u32) -> Vec<Value> {
    let labels = json!({"app": name});
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "tcp", "port": 9090, "targetPort": "tcp"},
    ]);
    let container = json!({
        "name": "app",
        "image": "mesh/demo",
        "imagePullPolicy": "IfNotPresent",
        "args": ["app", "--cluster", cluster, "--pod", "$(POD)", "--linger", "3"],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "tcp", "containerPort": 9090}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    });
    let opaque = json!({"config.linkerd.io/opaque-ports": "9090"});
    vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": opaque},
                    "spec": {"serviceAccountName": name, "containers": [container]},
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "annotations": opaque},
            "spec": {"selector": labels, "ports": ports},
        }),
    ]
}

/// Objects as kubectl reads them.
pub(crate) fn lines(objects: impl IntoIterator<Item = Value>) -> String {
    objects.into_iter().map(|object| format!("---\n{object}\n")).collect()
}

/// Whether a path is a file that can be run; the sentence says how to get it.
///
/// # Errors
/// When it is not there.
pub(crate) fn executable(path: &Path, remedy: &str) -> Result<()> {
    ensure!(path.is_file(), "{} is not there: {remedy}", path.display());
    Ok(())
}
