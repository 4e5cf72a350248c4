//! # Suite: install and check
//!
//! Job: `check --pre`, CRDs, the control plane, and the time until `check` is green, in both clusters.
//! Callers: `suites`.

use crate::{
    kubectl::Kubectl,
    stage::{SOON, Stage},
};
use anyhow::{Context, Result, ensure};
use std::time::Instant;

/// Longest time from `mesh install` to a green check, with images present, on a quiet machine.
const GOAL_SECONDS: f64 = 12.0;

/// Installs the control plane in both clusters.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    make_ca(stage)?;
    for cluster in stage.both() {
        stage.mesh(cluster, "check --pre --wait 10s")?;
    }
    let early = stage.try_mesh(&stage.east, "check --wait 1s")?;
    ensure!(!early.status.success(), "`mesh check` is green where nothing is installed");
    for cluster in stage.both() {
        let seconds = install(stage, cluster)?;
        crate::note(&format!(
            "  {}: `mesh install` to green in {seconds:.1} s (goal {GOAL_SECONDS})",
            cluster.context
        ));
    }
    Ok(())
}

/// The root that both clusters share, and an issuer each.
pub(super) fn make_ca(stage: &Stage<'_>) -> Result<()> {
    let out = stage.ca.display();
    let made = stage
        .mesh(&stage.east, &format!("ca create --force --out {out} --issuer east --issuer west"));
    made.map(drop).context("making the certificates")
}

/// Installs the control plane; gives the seconds from the first verb to a green check.
fn install(stage: &Stage<'_>, cluster: &Kubectl) -> Result<f64> {
    stage.mesh_apply(cluster, "install --crds")?;
    let begun = Instant::now();
    let issuer = |kind: &str| stage.ca_file(&format!("{}/issuer.{kind}", cluster.context));
    stage.mesh_apply(
        cluster,
        &format!(
            "install --identity-trust-anchors-file {} --identity-issuer-certificate-file {} --identity-issuer-key-file {}",
            stage.ca_file("ca.crt"),
            issuer("crt"),
            issuer("key"),
        ),
    )?;
    let checked = stage.mesh(cluster, &format!("check --wait {}s", SOON.as_secs()));
    let seconds = begun.elapsed().as_secs_f64();
    match checked {
        Ok(said) => {
            ensure!(!said.contains('‼'), "`mesh check` warns:\n{said}");
            Ok(seconds)
        }
        Err(error) => {
            let pods = cluster.line("get pods -A -o wide").unwrap_or_default();
            Err(error.context(format!("in {}:\n{pods}", cluster.context)))
        }
    }
}
