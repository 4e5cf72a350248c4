//! # Suite: upgrade
//!
//! Job: an installation is upgraded to itself, made highly available, and made plain again: its secrets stay, `check`
//! stays green, and `prune` names what the plain one does not have.
//! Callers: `suites`.

use super::{
    install,
    walk::{PODINFO, get},
};
use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, SOON, Stage},
};
use anyhow::{Result, ensure};
use std::time::Duration;

/// One node carries three replicas of everything.
const HA: &str = "upgrade --ha --set enablePodAntiAffinity=false";
/// Three Deployments of three Pods, one after the other.
const HA_WITHIN: Duration = Duration::from_secs(120);

/// In west; leaves it as the suite `install` made it.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let west = &stage.west;
    let before = secrets(west)?;
    stage.mesh_apply(west, "upgrade --crds")?;
    stage.mesh_apply(west, "upgrade")?;
    ensure!(secrets(west)? == before, "`mesh upgrade` changed the issuer or the anchors");
    well(stage, 1)?;

    stage.mesh_apply(west, HA)?;
    well(stage, 3)?;
    ensure!(budgets(west)? == 3, "a disruption budget for each Deployment is meant");
    let policy = west.line("get mutatingwebhookconfiguration linkerd-proxy-injector-webhook-config -o jsonpath={.webhooks[0].failurePolicy}")?;
    ensure!(policy == "Fail", "highly available, the webhook's failure policy is {policy}");

    install::apply(stage, west)?;
    let more = stage.mesh(west, "prune")?;
    run::output_of(&mut west.command(&["delete", "-f", "-"]), &more)?;
    ensure!(budgets(west)? == 0, "`mesh prune` leaves disruption budgets");
    well(stage, 1)?;
    ensure!(secrets(west)? == before, "the secrets changed");
    Ok(())
}

/// Everything runs in its newest version, `check` is green, and traffic passes.
fn well(stage: &Stage<'_>, replicas: u64) -> Result<()> {
    let west = &stage.west;
    install::rolled_out(west, HA_WITHIN)?;
    for name in install::DEPLOYMENTS {
        let deployment = west.get(&format!("{name} -n linkerd"))?;
        let ready = deployment["status"]["readyReplicas"].as_u64();
        ensure!(ready == Some(replicas), "{name} has {ready:?} ready Pods, {replicas} are meant");
    }
    stage.mesh(west, "check --wait 60s")?;
    let url = format!("http://{PODINFO}.{DEMO}/");
    run::until("an answer", SOON, || get(west, DEMO, &url)).map(drop)
}

fn secrets(cluster: &Kubectl) -> Result<String> {
    cluster.line("get secret/linkerd-identity-issuer configmap/linkerd-identity-trust-roots -n linkerd -o jsonpath={.items[*].data}")
}

fn budgets(cluster: &Kubectl) -> Result<usize> {
    Ok(cluster.line("get poddisruptionbudgets -n linkerd -o name")?.lines().count())
}
