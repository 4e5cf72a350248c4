//! # Suite: multicluster, the other way
//!
//! Job: what `mc check` says when something is wrong; edits that follow; the gateway goes and comes back; the network
//! between the clusters is cut.
//! Callers: `suites`.

use super::{
    install,
    walk::{MULTICLUSTER, PODINFO, get},
};
use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, EXPORTED, SOON, Stage, lines},
};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest from the gateway's last byte to empty endpoints: its close is seen, or its silence.
const WITHDRAWN_AFTER_CLOSE: Duration = Duration::from_secs(4);
/// As long as it serves when its end was asked for.
const GATEWAY_WAITS: Duration = Duration::from_secs(5);
const WITHDRAWN_AFTER_SILENCE: Duration = Duration::from_secs(8);

/// All of it; leaves the link well.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    stage.east.line(&format!("label service {PODINFO} -n {DEMO} {EXPORTED}=true --overwrite"))?;
    well(stage)?;
    edits(stage)?;
    bad_credentials(stage)?;
    no_app(stage)?;
    orphan(stage)?;
    no_gateway(stage)?;
    no_mirror(stage)?;
    if stage.provider.set_link("east", true).is_ok() {
        cut(stage)?;
    }
    foreign_anchors(stage)
}

/// The mirror has endpoints and answers.
fn well(stage: &Stage<'_>) -> Result<()> {
    let url = format!("http://{PODINFO}-east.{DEMO}/");
    run::until("an answer from east", SOON, || get(&stage.west, DEMO, &url))?;
    Ok(())
}

fn endpoints(west: &Kubectl) -> Result<bool> {
    let endpoints = west.get(&format!("endpoints {PODINFO}-east -n {DEMO}"))?;
    Ok(endpoints["subsets"][0]["addresses"].is_array())
}

/// The time until the mirror's endpoints are empty; a look takes a tenth of a second.
fn withdrawn(stage: &Stage<'_>, limit: Duration) -> Result<Duration> {
    let begun = Instant::now();
    run::until("the endpoints are withdrawn", SOON, || {
        ensure!(!endpoints(&stage.west)?, "{PODINFO}-east still has endpoints");
        Ok(())
    })?;
    let took = begun.elapsed();
    crate::note(&format!("  withdrawn after {:.1} s", took.as_secs_f64()));
    // A busy machine is slow to look; the goal itself is for measurements.
    ensure!(took <= limit * 2, "endpoints withdrawn after {took:?}, meant are {limit:?}");
    Ok(took)
}

fn edits(stage: &Stage<'_>) -> Result<()> {
    let (east, west) = (&stage.east, &stage.west);
    east.line(&format!("label service {PODINFO} -n {DEMO} team=blue"))?;
    run::until("the label in west", SOON, || {
        let mirror = west.get(&format!("service {PODINFO}-east -n {DEMO}"))?;
        ensure!(mirror["metadata"]["labels"]["team"] == "blue", "no label yet");
        Ok(())
    })?;
    east.line(&format!("label service {PODINFO} -n {DEMO} team-"))?;
    Ok(())
}

/// `mc check` fails and says `cause`; gives all that it says.
fn complains(stage: &Stage<'_>, cause: &str) -> Result<String> {
    let done = stage.try_mesh(&stage.west, "multicluster check --wait 1s")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(!done.status.success(), "`mc check` is green although: {cause}");
    ensure!(said.contains(cause), "`mc check` does not say `{cause}`:\n{said}");
    Ok(said)
}

fn green(stage: &Stage<'_>) -> Result<()> {
    stage.mesh(&stage.west, "multicluster check --wait 60s").map(drop)
}

fn bad_credentials(stage: &Stage<'_>) -> Result<()> {
    let name = format!("secret cluster-credentials-east -n {MULTICLUSTER}");
    let secret = stage.west.get(&name)?;
    let good =
        secret["data"]["kubeconfig"].as_str().context("the Secret has no kubeconfig")?.to_owned();
    let text = String::from_utf8(BASE64_STANDARD.decode(&good)?)?;
    let put = |data: &str| {
        let patch = format!(r#"{{"data":{{"kubeconfig":"{data}"}}}}"#);
        let mut args = vec!["patch"];
        args.extend(name.split(' '));
        args.extend(["--type=merge", "-p", &patch]);
        stage.west.run(&args)
    };
    let bad: Vec<String> = text
        .lines()
        .map(|line| match line.split_once("token:") {
            Some((before, _)) => format!("{before}token: not-a-token"),
            None => line.to_owned(),
        })
        .collect();
    put(&BASE64_STANDARD.encode(bad.join("\n")))?;
    let complained = complains(stage, "the credentials of cluster [east] are refused");
    put(&good)?;
    complained?;
    green(stage)
}

/// An exported Service without Pods is a mirror without endpoints.
fn no_app(stage: &Stage<'_>) -> Result<()> {
    let app = format!("deploy/{PODINFO} -n {DEMO}");
    stage.east.line(&format!("scale {app} --replicas=0"))?;
    withdrawn(stage, WITHDRAWN_AFTER_CLOSE)?;
    complains(stage, &format!("{PODINFO}-east.{DEMO} mirrored from cluster [east]"))?;
    stage.east.line(&format!("scale {app} --replicas=1"))?;
    stage.east.rolled_out(DEMO, &format!("deploy/{PODINFO}"), SOON)?;
    well(stage)?;
    green(stage)
}

/// A mirror of a cluster that no Link names: a warning, and no more.
fn orphan(stage: &Stage<'_>) -> Result<()> {
    let labels = json!({"mirror.linkerd.io/mirrored-service": "true", "mirror.linkerd.io/cluster-name": "gone"});
    let meta = json!({"name": "lost-gone", "namespace": DEMO, "labels": labels});
    stage.west.apply(&lines([
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}),
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": meta,
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 4143}]}],
        }),
    ]))?;
    let done = stage.try_mesh(&stage.west, "multicluster check --wait 30s")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    stage.west.line(&format!(
        "delete service/lost-gone endpoints/lost-gone -n {DEMO} --ignore-not-found"
    ))?;
    let warned = format!("mirror service lost-gone.{DEMO} is not part of any Link");
    ensure!(
        done.status.success() && said.contains(&warned),
        "an orphaned mirror: `mc check` ends with {} and says:\n{said}",
        done.status
    );
    Ok(())
}

/// East gets another root: the clusters do not know each other's identities any more.
fn foreign_anchors(stage: &Stage<'_>) -> Result<()> {
    install::make_ca_in(stage, "foreign/")?;
    let rooted = |folder: &str| -> Result<()> {
        install::apply_with(stage, &stage.east, folder)?;
        install::rolled_out(&stage.east, SOON)?;
        stage.mesh_apply(&stage.east, "multicluster install")?;
        stage.east.rolled_out(MULTICLUSTER, "deploy/linkerd-gateway", SOON)
    };
    rooted("foreign/")?;
    let url = format!("http://{PODINFO}-east.{DEMO}/");
    let seen = withdrawn(stage, WITHDRAWN_AFTER_SILENCE).and_then(|_| {
        let said = complains(stage, "Problematic clusters:\n")?;
        ensure!(
            said.contains("liveness checks failed for east: gateway"),
            "no word of the gateway:\n{said}"
        );
        let answer = get(&stage.west, DEMO, &url);
        ensure!(answer.is_err(), "a cluster of a foreign root answered: {answer:?}");
        Ok(())
    });
    rooted("")?;
    // The app's certificate is of the foreign root.
    stage.east.line(&format!("rollout restart deploy/{PODINFO} -n {DEMO}"))?;
    stage.east.rolled_out(DEMO, &format!("deploy/{PODINFO}"), SOON)?;
    seen?;
    well(stage)?;
    green(stage)
}

fn no_gateway(stage: &Stage<'_>) -> Result<()> {
    let gateway = format!("deploy/linkerd-gateway -n {MULTICLUSTER}");
    stage.east.line(&format!("scale {gateway} --replicas=0"))?;
    withdrawn(stage, GATEWAY_WAITS + WITHDRAWN_AFTER_CLOSE)?;
    complains(stage, "liveness checks failed for east: gateway")?;
    stage.east.line(&format!("scale {gateway} --replicas=1"))?;
    stage.east.rolled_out(MULTICLUSTER, "deploy/linkerd-gateway", SOON)?;
    well(stage)?;
    green(stage)
}

fn no_mirror(stage: &Stage<'_>) -> Result<()> {
    let mirror = format!("deploy/linkerd-service-mirror -n {MULTICLUSTER}");
    stage.west.line(&format!("scale {mirror} --replicas=0"))?;
    complains(stage, "linkerd-service-mirror is scaled to 0")?;
    stage.west.line(&format!("scale {mirror} --replicas=1"))?;
    stage.west.rolled_out(MULTICLUSTER, "deploy/linkerd-service-mirror", SOON)?;
    green(stage)
}

/// Nothing passes between the clusters, and nothing says so: only silence.
fn cut(stage: &Stage<'_>) -> Result<()> {
    // East's API server lies beyond the same link, so only west is asked meanwhile.
    stage.provider.set_link("east", false)?;
    let seen = withdrawn(stage, WITHDRAWN_AFTER_SILENCE)
        .and_then(|_| complains(stage, "east: no answer within"));
    stage.provider.set_link("east", true)?;
    // As with Linkerd, endpoints that are not ready are endpoints here: the gateway's own check tells the cause, once.
    let said = seen?;
    ensure!(said.contains("√ all mirror services have endpoints"), "a cut is told twice:\n{said}");
    well(stage)?;
    green(stage)
}
