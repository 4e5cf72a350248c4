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
    stage::{DEMO, EXPORTED, Stage, lines, namespace},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Longest until a component says what it misses: its restart, and a retry of what it does seldom.
const NAMED_WITHIN: Duration = Duration::from_secs(40);
const READY_WITHIN: Duration = Duration::from_secs(5);
const ANOTHER_POD: Duration = Duration::from_secs(5);

/// Rights of which nothing of ours tells, and why they are given.
const SILENT: [&str; 5] = ["pods", "replicasets", "jobs", "endpointslices", "servers"];
const SILENT_WHY: &str = "a Linkerd that imports in remote-discovery mode uses it";
/// A namespace of east alone: what it exports cannot be mirrored, of which an Event tells.
const ONLY_EAST: &str = "only-east";

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
    let ports = json!([{"port": 80}]);
    east.apply(&lines([
        namespace(ONLY_EAST, false),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": PODINFO, "namespace": ONLY_EAST}, "spec": {"ports": ports},
        }),
    ]))?;
    let failures: Vec<String> = std::thread::scope(|threads| {
        let running: Vec<_> =
            lanes.values().map(|lane| threads.spawn(|| lane.run(stage))).collect();
        let panicked = |_| vec!["a lane panicked".to_owned()];
        running.into_iter().flat_map(|lane| lane.join().unwrap_or_else(panicked)).collect()
    });
    east.line(&format!("delete namespace {ONLY_EAST} --wait=false"))?;
    east.line(&format!("label service {PODINFO} -n {DEMO} --overwrite {EXPORTED}=true"))?;
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
            if right.account.contains("remote-access") && SILENT.contains(&&*right.resource) {
                crate::note(&format!("  {right}: not tried: {SILENT_WHY}"));
                continue;
            }
            if run::stopped() {
                break;
            }
            match self.without(stage, cluster, right, number) {
                Ok(()) => named += 1,
                Err(error) => {
                    failures.push(format!("{} without {right}: {error:#}", self.deployment));
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
            let mut exported = true;
            let (mut pods, mut next_pod) = (0, Instant::now());
            run::until("something names the right", NAMED_WITHIN, || {
                if self.namespace == MULTICLUSTER {
                    exported = !exported;
                    export(stage, exported)?;
                }
                // One may pass the webhook by, as it does while no injector is ready.
                if Instant::now() >= next_pod {
                    self.new_pod(&format!("{number}-{pods}"))?;
                    (pods, next_pod) = (pods + 1, Instant::now() + ANOTHER_POD);
                }
                let said = self.said(stage, right, &old)?;
                let found = said.lines().any(|line| right.is_named_by(line));
                let tail: Vec<&str> = said.lines().rev().take(5).collect();
                ensure!(found, "the last that is said: {}", tail.join(" | "));
                Ok(())
            })
        });
        let back =
            run::output_of(&mut cluster.command(&["replace", "-f", "-"]), &right.role.to_string());
        seen?;
        back.map(drop).context("giving the right back")
    }

    /// Deletes the component's Pods and gives their names.
    fn restart(&self) -> Result<Vec<String>> {
        let old = self.pods()?;
        // One of them may go by itself: the restart before this one ends it.
        let mut args =
            vec!["delete", "pod", "-n", self.namespace, "--wait=false", "--ignore-not-found"];
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

    /// What the Pods that are not `old` have logged, and of another cluster's rights what `mc check` says.
    fn said(&self, stage: &Stage<'_>, right: &Right, old: &[String]) -> Result<String> {
        let mut said = String::new();
        for pod in self.pods()?.iter().filter(|pod| !old.contains(pod)) {
            // A container that is about to start has no log yet.
            let line = format!("logs -n {} {pod} --all-containers", self.namespace);
            said += &self.at.line(&line).unwrap_or_default();
        }
        if right.account.contains("remote-access") {
            let done = stage.try_mesh(&stage.west, "multicluster check --wait 1s")?;
            said += &String::from_utf8_lossy(&done.stdout);
        }
        Ok(said)
    }

    /// A new meshed Pod where the component is: admission, a certificate, Events.
    fn new_pod(&self, number: &str) -> Result<()> {
        if !["linkerd-identity", "linkerd-proxy-injector"].contains(&self.deployment) {
            return Ok(());
        }
        let deployment = format!("deploy/{}", self.deployment);
        // Without some rights it does not become ready, and says so.
        let _ = self.at.rolled_out(self.namespace, &deployment, READY_WITHIN);
        let job = job(&format!("{}-{number}", self.deployment));
        self.at.apply(&job.to_string()).map(drop)
    }
}

/// Makes the mirror write: a Service and its Endpoints come and go, and one that cannot be mirrored.
fn export(stage: &Stage<'_>, yes: bool) -> Result<()> {
    let label = if yes { format!("{EXPORTED}=true") } else { format!("{EXPORTED}-") };
    for namespace in [DEMO, ONLY_EAST] {
        stage.east.line(&format!("label service {PODINFO} -n {namespace} --overwrite {label}"))?;
    }
    Ok(())
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
