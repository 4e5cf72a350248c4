//! # Suite: each permission is needed
//!
//! Job: takes every right of our roles away, one at a time, restarts who uses it, and waits until that component's log
//! names the right it misses; gives it back. The rights are read from the clusters, so a new rule is tried by itself.
//! Callers: `suites`.

use super::{
    rights::{self, Right},
    walk::{MULTICLUSTER, PODINFO},
};
use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, EXPORTED, SOON, Stage},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Longest until a component says what it misses: its restart, and a retry of what it does seldom.
const NAMED_WITHIN: Duration = Duration::from_secs(40);

/// Rights that no log of ours tells about, and why they are given.
const SILENT: [(&str, &str, &str); 5] = [
    ("remote-access", "pods", "flat mode, asked by the other cluster's destination service"),
    ("remote-access", "replicasets", "as pods"),
    ("remote-access", "jobs", "as pods"),
    ("remote-access", "endpointslices", "as pods"),
    ("remote-access", "servers", "as pods"),
];

/// A component and the rights that it is tried without, one after the other.
struct Lane<'a> {
    /// Where the component runs.
    at: &'a Kubectl,
    namespace: &'static str,
    deployment: &'static str,
    /// Where each right is given.
    rights: Vec<(&'a Kubectl, Right)>,
}

/// Control plane in east and mirror in west, all components side by side.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let (east, west) = (&stage.east, &stage.west);
    let mut lanes = BTreeMap::new();
    for (cluster, right) in given(east)?.into_iter().chain(given(west)?) {
        let Some((at, namespace, deployment)) = user(stage, cluster, &right.account) else {
            continue;
        };
        let lane = lanes.entry((at.context.clone(), deployment)).or_insert_with(|| Lane {
            at,
            namespace,
            deployment,
            rights: Vec::new(),
        });
        lane.rights.push((cluster, right));
    }
    ensure!(lanes.len() == 4, "rights of four components are meant, found {:?}", lanes.keys());
    let failures: Vec<String> = std::thread::scope(|threads| {
        let running: Vec<_> =
            lanes.values().map(|lane| threads.spawn(|| lane.run(stage))).collect();
        let panicked = |_| vec!["a lane panicked".to_owned()];
        running.into_iter().flat_map(|lane| lane.join().unwrap_or_else(panicked)).collect()
    });
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    for cluster in stage.both() {
        stage.mesh(cluster, "check --wait 60s")?;
    }
    stage.mesh(west, "multicluster check --wait 60s").map(drop)
}

fn given(cluster: &Kubectl) -> Result<Vec<(&Kubectl, Right)>> {
    Ok(rights::of_mesh(cluster)?.into_iter().map(|right| (cluster, right)).collect())
}

/// Who acts as a service account here, as far as this suite tries it: each component in one cluster.
fn user<'a>(
    stage: &'a Stage<'_>,
    cluster: &'a Kubectl,
    account: &str,
) -> Option<(&'a Kubectl, &'static str, &'static str)> {
    let name = account.rsplit(':').next().unwrap_or_default();
    let in_east = cluster.context == stage.east.context;
    match name {
        "linkerd-identity" if in_east => Some((cluster, "linkerd", "linkerd-identity")),
        "linkerd-destination" if in_east => Some((cluster, "linkerd", "linkerd-destination")),
        "linkerd-proxy-injector" if in_east => Some((cluster, "linkerd", "linkerd-proxy-injector")),
        "linkerd-service-mirror" if !in_east => {
            Some((cluster, MULTICLUSTER, "linkerd-service-mirror"))
        }
        name if name.contains("remote-access") && in_east => {
            Some((&stage.west, MULTICLUSTER, "linkerd-service-mirror"))
        }
        _ => None,
    }
}

impl Lane<'_> {
    /// What went wrong, a line each.
    fn run(&self, stage: &Stage<'_>) -> Vec<String> {
        let (mut failures, mut named) = (Vec::new(), 0);
        for (number, (cluster, right)) in self.rights.iter().enumerate() {
            if let Some((.., why)) = silent(right) {
                crate::note(&format!("  {right}: not tried: {why}"));
                continue;
            }
            if run::stopped() {
                break;
            }
            match self.without(stage, cluster, right, number) {
                Ok(()) => named += 1,
                Err(error) => {
                    failures.push(format!("{} without {right}: {error:#}", self.deployment))
                }
            }
        }
        crate::note(&format!("  {}: names each of {named} rights that it misses", self.deployment));
        failures
    }

    fn without(
        &self,
        stage: &Stage<'_>,
        cluster: &Kubectl,
        right: &Right,
        number: usize,
    ) -> Result<()> {
        let lesser = right.lesser_role().to_string();
        run::output_of(&mut cluster.command(&["replace", "-f", "-"]), &lesser)?;
        let seen = self.restart().and_then(|old| {
            // Some rights are used at start, others when something happens.
            self.stimulate(stage, number)?;
            run::until_every(
                Duration::from_millis(300),
                "its log names the right",
                NAMED_WITHIN,
                || {
                    let said = self.said(&old)?;
                    let found = said.lines().any(|line| right.is_named_by(line));
                    let tail: Vec<&str> = said.lines().rev().take(5).collect();
                    ensure!(found, "the last that it says: {}", tail.join(" | "));
                    Ok(())
                },
            )
        });
        let back =
            run::output_of(&mut cluster.command(&["replace", "-f", "-"]), &right.role.to_string());
        seen?;
        back.map(drop).context("giving the right back")
    }

    /// Deletes the component's Pods and gives their names.
    fn restart(&self) -> Result<Vec<String>> {
        let old = self.pods()?;
        let mut args = vec!["delete", "pod", "-n", self.namespace, "--wait=false"];
        args.extend(old.iter().map(String::as_str));
        self.at.run(&args)?;
        Ok(old)
    }

    fn pods(&self) -> Result<Vec<String>> {
        let deployment =
            self.at.get(&format!("deploy/{} -n {}", self.deployment, self.namespace))?;
        let labels = deployment["spec"]["selector"]["matchLabels"].as_object();
        let labels: Vec<String> = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let names = self.at.line(&format!(
            "get pods -n {} -l {} -o jsonpath={{.items[*].metadata.name}}",
            self.namespace,
            labels.join(",")
        ))?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// What the Pods that are not `old` have logged.
    fn said(&self, old: &[String]) -> Result<String> {
        let mut said = String::new();
        for pod in self.pods()?.iter().filter(|pod| !old.contains(pod)) {
            said += &self.at.line(&format!("logs -n {} {pod} --all-containers", self.namespace))?;
        }
        Ok(said)
    }

    /// A new meshed Pod (admission, a certificate, Events) where the component is, or a change of what is exported.
    fn stimulate(&self, stage: &Stage<'_>, number: usize) -> Result<()> {
        if self.namespace == MULTICLUSTER {
            let label = format!("label service {PODINFO} -n {DEMO} --overwrite");
            stage.east.line(&format!("{label} {EXPORTED}-"))?;
            return stage.east.line(&format!("{label} {EXPORTED}=true")).map(drop);
        }
        if self.deployment == "linkerd-destination" {
            return Ok(());
        }
        self.at.rolled_out(self.namespace, &format!("deploy/{}", self.deployment), SOON).or_else(
            // Without some rights it does not become ready, which is told by its log.
            |_| Ok::<_, anyhow::Error>(()),
        )?;
        let job = job(&format!("{}-{number}", self.deployment));
        self.at.apply(&job.to_string()).map(drop)
    }
}

/// A Job of one Pod that waits for nothing.
fn job(name: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": DEMO},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 0,
            "template": {"spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "app", "image": "mesh/demo", "imagePullPolicy": "IfNotPresent",
                    "args": ["get", format!("http://{PODINFO}.{DEMO}/"), "--timeout", "20"],
                }],
            }},
        },
    })
}

fn silent(right: &Right) -> Option<&'static (&'static str, &'static str, &'static str)> {
    SILENT.iter().find(|(account, resource, _)| {
        right.account.contains(account) && right.resource == *resource
    })
}
