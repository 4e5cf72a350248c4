//! # Suite: redirect rules by the CNI plugin
//!
//! Job: the plugin is brought to the node by its chart; new Pods are meshed without an init container that has rights;
//! and the node's network configuration is as before when the plugin is gone.
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
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;

const NAMESPACE: &str = "linkerd-cni";

/// In west; leaves it as the suite `install` made it.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let west = &stage.west;
    let (configurations, plugins) = stage.provider.cni_folders("west")?;
    let before = files(&configurations)?;
    let (net, bin) = (configurations.display(), plugins.display());
    let line = format!("install-cni --dest-cni-net-dir {net} --dest-cni-bin-dir {bin}");
    stage.mesh_apply(west, &line)?;
    west.rolled_out(NAMESPACE, "daemonset/linkerd-cni", SOON)?;
    if let Some(before) = &before {
        run::until("the plugin is in the node's configuration", SOON, || {
            let now = files(&configurations)?;
            ensure!(now.as_ref() != Some(before), "nothing has changed in {net}");
            Ok(())
        })?;
    }
    stage.mesh_apply(west, "upgrade --linkerd-cni-enabled")?;
    meshed(stage, "linkerd-network-validator")?;

    install::apply(stage, west)?;
    // A Pod that starts while the plugin goes is the plugin's still, which has no rights any more.
    install::rolled_out(west, SOON)?;
    let manifests = stage.mesh(west, &line)?;
    run::output_of(&mut west.command(&["delete", "--ignore-not-found", "-f", "-"]), &manifests)?;
    run::until("the node is as before", SOON, || {
        ensure!(files(&configurations)? == before, "the plugin is still in {net}");
        Ok(())
    })?;
    meshed(stage, "linkerd-init")
}

/// A new Pod of the app has this init container and no other of ours with rights, and is told the caller's identity.
fn meshed(stage: &Stage<'_>, init: &str) -> Result<()> {
    let west = &stage.west;
    west.rolled_out("linkerd", "deploy/linkerd-proxy-injector", SOON)?;
    stage.mesh(west, "check --wait 60s")?;
    run::until(&format!("a Pod with {init}"), SOON, || {
        west.line(&format!("rollout restart deploy/{PODINFO} -n {DEMO}"))?;
        west.rolled_out(DEMO, &format!("deploy/{PODINFO}"), SOON)?;
        let pod = newest(west)?;
        let containers = pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        let with_rights: Vec<&Value> = containers
            .iter()
            .filter(|c| c["securityContext"]["capabilities"]["add"].is_array())
            .map(|c| &c["name"])
            .collect();
        ensure!(
            containers.iter().any(|c| c["name"] == init)
                && with_rights.iter().all(|name| *name == init),
            "its init containers are {:?}, with rights {with_rights:?}",
            containers.iter().map(|c| &c["name"]).collect::<Vec<_>>()
        );
        Ok(())
    })?;
    let url = format!("http://{PODINFO}.{DEMO}/");
    let told = run::until("an answer", SOON, || get(west, DEMO, &url))?;
    let caller = told["client_id"].as_str().unwrap_or_default();
    ensure!(
        caller.starts_with(&format!("client.{DEMO}.serviceaccount.")),
        "with {init}, the app is told of the caller: {told}"
    );
    Ok(())
}

fn newest(cluster: &Kubectl) -> Result<Value> {
    let list = cluster
        .get(&format!("pods -n {DEMO} -l app={PODINFO} --sort-by=.metadata.creationTimestamp"))?;
    let last = list["items"].as_array().and_then(|all| all.last().cloned());
    last.context("there is no Pod")
}

/// Names and contents of a folder of this machine; `None` if the node is elsewhere.
fn files(folder: &Path) -> Result<Option<Vec<(String, String)>>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let text = std::fs::read_to_string(entry.path())?;
        // Formatting may differ: it is what it says that counts.
        let text = serde_json::from_str::<Value>(&text).map_or(text, |value| value.to_string());
        found.push((entry.file_name().display().to_string(), text));
    }
    found.sort();
    Ok(Some(found))
}
