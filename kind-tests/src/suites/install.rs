//! # Suite: install and check
//!
//! Job: `check --pre`, CRDs, the control plane, and the time until `check` is green, in both clusters.
//! Callers: `suites`.

use crate::{
    kubectl::Kubectl,
    stage::{SOON, Stage},
};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// Longest time from `mesh install` to a green check, with images present, on a quiet machine.
const GOAL_SECONDS: f64 = 12.0;

/// Installs the control plane in both clusters.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    for cluster in stage.both() {
        let found = cluster.line("get namespace linkerd --ignore-not-found -o name")?;
        ensure!(
            found.trim().is_empty(),
            "{} has a mesh from an earlier run: take the clusters away with `down` to begin anew, or run a suite on it \
             with --only",
            cluster.context
        );
    }
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

/// The parts of the control plane: Deployments in `linkerd`.
pub(super) const DEPLOYMENTS: [&str; 3] =
    ["deploy/linkerd-identity", "deploy/linkerd-destination", "deploy/linkerd-proxy-injector"];

/// Waits until each part of the control plane runs in its newest version.
pub(super) fn rolled_out(cluster: &Kubectl, limit: Duration) -> Result<()> {
    DEPLOYMENTS.iter().try_for_each(|name| cluster.rolled_out("linkerd", name, limit))
}

/// Applies what `install` prints with default values and this cluster's certificates.
pub(super) fn apply(stage: &Stage<'_>, cluster: &Kubectl) -> Result<()> {
    apply_with(stage, cluster, "")
}

/// [`apply`], with the certificates of a subfolder of their own.
pub(super) fn apply_with(stage: &Stage<'_>, cluster: &Kubectl, folder: &str) -> Result<()> {
    let file = |name: &str| stage.ca_file(&format!("{folder}{name}"));
    let issuer = |kind: &str| file(&format!("{}/issuer.{kind}", cluster.context));
    stage.mesh_apply(
        cluster,
        &format!(
            "install --ignore-cluster --identity-trust-anchors-file {} --identity-issuer-certificate-file {} --identity-issuer-key-file {}",
            file("ca.crt"),
            issuer("crt"),
            issuer("key"),
        ),
    )
}

/// The root that both clusters share, and an issuer each.
fn make_ca(stage: &Stage<'_>) -> Result<()> {
    make_ca_in(stage, "")
}

/// A root and an issuer a cluster, in a subfolder.
pub(super) fn make_ca_in(stage: &Stage<'_>, folder: &str) -> Result<()> {
    let out = stage.ca_file(folder);
    let made = stage
        .mesh(&stage.east, &format!("ca create --force --out {out} --issuer east --issuer west"));
    made.map(drop).context("making the certificates")
}

/// Installs the control plane; gives the seconds from the first verb to a green check.
fn install(stage: &Stage<'_>, cluster: &Kubectl) -> Result<f64> {
    stage.mesh_apply(cluster, "install --crds")?;
    let begun = Instant::now();
    apply(stage, cluster)?;
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
