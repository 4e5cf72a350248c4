//! # Suite: traffic
//!
//! Job: every protocol from a client that knows nothing of the mesh, inside a cluster and across the gateway; who is
//! told whose identity; who is refused.
//! Callers: `suites`.

use super::walk::{PODINFO, get};
use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, EXPORTED, SOON, Stage},
};
use anyhow::{Context, Result, ensure};

/// Requests of the closed loop.
const REQUESTS: &str = "2000";

/// Within west, then to east.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let near = format!("{PODINFO}.{DEMO}");
    let told =
        run::until("an answer", SOON, || get(&stage.west, DEMO, &format!("http://{near}/")))?;
    let client = told["client_id"].as_str().unwrap_or_default();
    ensure!(
        client.starts_with(&format!("client.{DEMO}.serviceaccount.")),
        "told of the caller: {told}"
    );
    let told = get(&stage.west, "plain", &format!("http://{near}/"))?;
    ensure!(told["client_id"].is_null(), "a caller outside the mesh has an identity: {told}");
    speak(&stage.west, DEMO, &near).context("inside the mesh")?;
    speak(&stage.west, "plain", &near).context("from outside the mesh")?;

    stage.east.line(&format!("label service {PODINFO} -n {DEMO} {EXPORTED}=true --overwrite"))?;
    let far = format!("{PODINFO}-east.{DEMO}");
    run::until("an answer from east", SOON, || get(&stage.west, DEMO, &format!("http://{far}/")))?;
    speak(&stage.west, DEMO, &far).context("through the gateway")
}

/// Every protocol, then many requests of HTTP/1 and HTTP/2 without one failure.
fn speak(cluster: &Kubectl, namespace: &str, host: &str) -> Result<()> {
    let said =
        cluster.exec(namespace, "deploy/client", "app", &["/mesh-demo", "protocols", host])?;
    ensure!(said.lines().count() == 5, "not every protocol was spoken:\n{said}");
    let url = format!("http://{host}/");
    for version in [&[][..], &["--http2"]] {
        let mut command =
            vec!["/mesh-demo", "load", &url, "--workers", "16", "--requests", REQUESTS];
        command.extend(version);
        let report = cluster.exec(namespace, "deploy/client", "app", &command)?;
        crate::note(&format!("  {namespace} -> {host} {}: {}", version.join(""), report.trim()));
    }
    Ok(())
}
