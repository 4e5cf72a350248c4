//! # Suite: the classic walk-through
//!
//! Job: the session that a user types to join two clusters: extension, gateway address, link, check, an app in both,
//! export, call by name through cluster DNS, refuse who is not meshed, unexport.
//! Callers: `suites`.

use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, EXPORTED, SOON, Stage, app, lines, namespace},
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub(super) const MULTICLUSTER: &str = "linkerd-multicluster";
pub(super) const PODINFO: &str = "podinfo";

/// Links west to east and walks the whole way once; leaves the link and the apps, and `podinfo` not exported.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    for cluster in stage.both() {
        stage.mesh_apply(cluster, "multicluster install")?;
    }
    for cluster in stage.both() {
        for deployment in ["deploy/linkerd-gateway", "deploy/linkerd-service-mirror"] {
            cluster.rolled_out(MULTICLUSTER, deployment, SOON)?;
        }
    }
    let gateway = gateway_address(&stage.east)?;
    crate::note(&format!("  east's gateway: {gateway}"));
    let api = stage.provider.api_address("east")?;
    let link = format!("multicluster link --cluster-name east --api-server-address {api}");
    let link = stage.mesh(&stage.east, &link)?;
    stage.west.apply(&link).context("applying the link in west")?;
    stage.mesh(&stage.west, "multicluster check --wait 60s")?;
    run::until("the link is alive", SOON, || {
        let table = stage.mesh(&stage.west, "multicluster gateways")?;
        ensure!(table.lines().any(|l| l.starts_with("east") && l.contains("True")), "{table}");
        Ok(())
    })?;
    deploy(stage)?;
    export(stage, &gateway)?;
    call(stage)?;
    unexport(stage)
}

/// The address of east's gateway, once it has one.
fn gateway_address(cluster: &Kubectl) -> Result<String> {
    run::until("an address of the gateway", SOON, || {
        let service = cluster.get(&format!("service linkerd-gateway -n {MULTICLUSTER}"))?;
        let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        ip.map(str::to_owned).context("no address yet")
    })
}

/// The app in both, and in west a client in the mesh and one outside.
fn deploy(stage: &Stage<'_>) -> Result<()> {
    for cluster in stage.both() {
        let mut objects = vec![namespace(DEMO, true)];
        objects.extend(app(DEMO, PODINFO, &cluster.context, 1));
        if cluster.context == "west" {
            objects.extend(app(DEMO, "client", "west", 1));
            objects.push(namespace("plain", false));
            objects.extend(app("plain", "client", "west", 1));
        }
        cluster.apply(&lines(objects))?;
    }
    for (cluster, namespace, name) in [
        (&stage.east, DEMO, PODINFO),
        (&stage.west, DEMO, PODINFO),
        (&stage.west, DEMO, "client"),
        (&stage.west, "plain", "client"),
    ] {
        cluster.rolled_out(namespace, &format!("deploy/{name}"), SOON)?;
    }
    Ok(())
}

fn export(stage: &Stage<'_>, gateway: &str) -> Result<()> {
    stage.east.line(&format!("label service {PODINFO} -n {DEMO} {EXPORTED}=true --overwrite"))?;
    let endpoints = run::until("the mirror in west", SOON, || {
        let endpoints = stage.west.get(&format!("endpoints {PODINFO}-east -n {DEMO}"))?;
        ensure!(endpoints["subsets"][0]["addresses"].is_array(), "no addresses yet");
        Ok(endpoints)
    })?;
    stage.west.line(&format!("get service {PODINFO}-east -n {DEMO}"))?;
    let address = &endpoints["subsets"][0]["addresses"][0]["ip"];
    ensure!(address == gateway, "the mirror's endpoint is {address}, the gateway is {gateway}");
    Ok(())
}

fn call(stage: &Stage<'_>) -> Result<()> {
    let url = format!("http://{PODINFO}-east.{DEMO}/");
    let told = run::until("an answer from east", SOON, || get(&stage.west, DEMO, &url))?;
    ensure!(told["cluster"] == "east", "the answer came from {told}");
    let caller = told["client_id"].as_str().unwrap_or_default();
    ensure!(
        caller.starts_with("linkerd-gateway.linkerd-multicluster."),
        "the app was told another caller: {told}"
    );
    let forwarded = told["forwarded"].as_str().unwrap_or_default();
    ensure!(
        forwarded.contains(&format!("for=client.{DEMO}.serviceaccount.identity.linkerd.")),
        "the gateway did not tell the caller's identity: {told}"
    );
    let refused = get(&stage.west, "plain", &url);
    ensure!(refused.is_err(), "a Pod outside the mesh got an answer: {refused:?}");
    Ok(())
}

/// What the app answers a Pod `client` of west that asks this URL by name.
pub(super) fn get(cluster: &Kubectl, namespace: &str, url: &str) -> Result<Value> {
    let text = cluster.exec(namespace, "deploy/client", "app", &["/mesh-demo", "get", url])?;
    serde_json::from_str(&text).with_context(|| format!("the answer is no JSON: {text}"))
}

fn unexport(stage: &Stage<'_>) -> Result<()> {
    stage.east.line(&format!("label service {PODINFO} -n {DEMO} {EXPORTED}-"))?;
    run::until("the mirror goes", SOON, || {
        let found = stage.west.line(&format!(
            "get service,endpoints -n {DEMO} -l mirror.linkerd.io/mirrored-service=true -o name"
        ))?;
        ensure!(found.trim().is_empty(), "there are still: {found}");
        Ok(())
    })
}
