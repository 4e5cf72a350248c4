//! # Suite: rollouts under load
//!
//! Job: a meshed app is restarted again and again while it is asked 200 times a second with HTTP/1 and as often with
//! HTTP/2: no request may fail.
//! Callers: `suites`, `soak`.

use super::walk::PODINFO;
use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, SOON, Stage},
};
use anyhow::{Context, Result, ensure};
use std::process::{Child, Command, Stdio};

const RATE: &str = "200";
/// Longest that one restart takes; the load goes on for as many of them.
const ONE_RESTART: u64 = 10;

/// A few restarts.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    restarts(stage, 3)
}

/// Many restarts.
pub(super) fn soak(stage: &Stage<'_>) -> Result<()> {
    restarts(stage, 50)
}

/// `times` restarts of the app in west, under load of both versions of HTTP at once.
fn restarts(stage: &Stage<'_>, times: u64) -> Result<()> {
    let seconds = (times * ONE_RESTART).to_string();
    let versions = [("HTTP/1", &[][..]), ("HTTP/2", &["--http2"])];
    let mut loads = Vec::new();
    for (name, flags) in versions {
        loads.push((name, load(&stage.west, &seconds, flags)?));
    }
    let restarted = (0..times).try_for_each(|_| restart(&stage.west));
    let mut failures = Vec::new();
    for (name, load) in loads {
        let done = load.wait_with_output().context("waiting for the load")?;
        let said = String::from_utf8_lossy(&done.stdout);
        crate::note(&format!("  {times} restarts, {name}: {}", said.trim()));
        if !done.status.success() || !said.contains(" 0 failed") {
            failures.push(format!("{name}: {said}{}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    restarted?;
    ensure!(failures.is_empty(), "requests failed: {}", failures.join("; "));
    Ok(())
}

fn restart(cluster: &Kubectl) -> Result<()> {
    cluster.line(&format!("rollout restart deploy/{PODINFO} -n {DEMO}"))?;
    cluster.rolled_out(DEMO, &format!("deploy/{PODINFO}"), SOON)?;
    run::until("the old Pod has ended", SOON, || {
        let pods = cluster.line(&format!("get pods -n {DEMO} -l app={PODINFO} -o name"))?;
        ensure!(pods.lines().count() == 1, "there are still: {pods}");
        Ok(())
    })
}

fn load(cluster: &Kubectl, seconds: &str, version: &[&str]) -> Result<Child> {
    let url = format!("http://{PODINFO}.{DEMO}/");
    let mut args =
        vec!["exec", "-n", DEMO, "deploy/client", "-c", "app", "--", "/mesh-demo", "load"];
    args.extend([url.as_str(), "--rate", RATE, "--seconds", seconds, "--workers", "400"]);
    args.extend(version);
    let mut command: Command = cluster.command(&args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")
}
