//! # kubectl
//!
//! Job: run kubectl on one cluster, as a person does, and read what it prints.
//! May touch: the cluster of its context. Callers: providers, suites.

use crate::run;
use anyhow::{Context, Result};
use serde_json::Value;
use std::{path::PathBuf, process::Command, time::Duration};

/// kubectl with a kubeconfig and a context.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    /// The file of both clusters.
    pub(crate) kubeconfig: PathBuf,
    /// The cluster.
    pub(crate) context: String,
}

impl Kubectl {
    /// kubectl on the cluster `context`.
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf, context: &str) -> Self {
        Self { program, kubeconfig, context: context.to_owned() }
    }

    /// The command line with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // The program is all of Kubernetes in one; its first argument says which part.
        if self.program.file_name().is_none_or(|name| name != "kubectl") {
            command.arg("kubectl");
        }
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--context", &self.context]);
        command.args(args);
        command
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        run::output(&mut self.command(args))
    }

    /// [`Kubectl::run`], with the arguments in one line, parted by spaces.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub(crate) fn line(&self, line: &str) -> Result<String> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// `apply -f -`.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub(crate) fn apply(&self, manifests: &str) -> Result<String> {
        run::output_of(&mut self.command(&["apply", "-f", "-"]), manifests)
    }

    /// `get ... -o json`; the arguments in one line.
    ///
    /// # Errors
    /// When there is no such object.
    pub(crate) fn get(&self, what: &str) -> Result<Value> {
        let text = self.line(&format!("get {what} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("`get {what}` prints no JSON"))
    }

    /// Waits until every replica of a Deployment runs its newest version.
    ///
    /// # Errors
    /// When it does not come up in time; with what its Pods say.
    pub(crate) fn rolled_out(
        &self,
        namespace: &str,
        deployment: &str,
        limit: Duration,
    ) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.run(&["rollout", "status", "-n", namespace, deployment, &timeout]).map(drop).map_err(
            |error| {
                let pods = self.line(&format!("get pods -n {namespace} -o wide"));
                error.context(format!("in {}:\n{}", self.context, pods.unwrap_or_default()))
            },
        )
    }

    /// Runs a command in a Pod or Deployment.
    ///
    /// # Errors
    /// When it fails there.
    pub(crate) fn exec(
        &self,
        namespace: &str,
        target: &str,
        container: &str,
        command: &[&str],
    ) -> Result<String> {
        let mut args = vec!["exec", "-n", namespace, target, "-c", container, "--"];
        args.extend(command);
        self.run(&args)
    }
}
