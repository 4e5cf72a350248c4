//! # Suite: rollouts under load
//!
//! Job: a meshed app is restarted again and again while it is asked 200 times a second, with HTTP/1 and with HTTP/2:
//! no request may fail.
//! Callers: `suites`, `soak`.

use super::walk::PODINFO;
use crate::{
    kubectl::Kubectl,
    stage::{DEMO, SOON, Stage},
};
use anyhow::{Context, Result, ensure};
use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

const RATE: &str = "200";
/// Longest that one restart takes; the load goes on for as many of them.
const ONE_RESTART: u64 = 15;

/// A few restarts.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    restarts(stage, 3)
}

/// `times` restarts of the app in west under load of both versions of HTTP.
pub(super) fn restarts(stage: &Stage<'_>, times: u64) -> Result<()> {
    let west = &stage.west;
    let seconds = (times * ONE_RESTART).to_string();
    let loads = [load(west, &seconds, &[])?, load(west, &seconds, &["--http2"])?];
    let restarted = (0..times).try_for_each(|_| {
        west.line(&format!("rollout restart deploy/{PODINFO} -n {DEMO}"))?;
        west.rolled_out(DEMO, &format!("deploy/{PODINFO}"), SOON)?;
        // The old Pod serves on for its grace period; the next restart must not take the new one with it.
        std::thread::sleep(Duration::from_secs(4));
        Ok(())
    });
    for load in loads {
        let done = load.wait_with_output().context("waiting for the load")?;
        let said = String::from_utf8_lossy(&done.stdout);
        crate::note(&format!("  {times} restarts: {}", said.trim()));
        ensure!(
            done.status.success() && said.contains(" 0 failed"),
            "requests failed: {said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    restarted
}

fn load(cluster: &Kubectl, seconds: &str, version: &[&str]) -> Result<Child> {
    let url = format!("http://{PODINFO}.{DEMO}/");
    let mut args =
        vec!["exec", "-n", DEMO, "deploy/client", "-c", "app", "--", "/mesh-demo", "load"];
    args.extend([url.as_str(), "--rate", RATE, "--seconds", seconds, "--workers", "50"]);
    args.extend(version);
    let mut command: Command = cluster.command(&args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")
}
