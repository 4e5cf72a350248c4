//! # Checks of the data plane
//!
//! Job: are the sidecars ready, of this version, and do they trust what the control plane trusts.
//! May touch: the cluster, reading. Callers: `check`.

use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Container, Pod};
use mesh_pki::TrustBundle;

use super::{
    Category, check, labels,
    view::{Finding, View, none, none_or_warn, pod_name},
};

const MESHED: &str = "linkerd.io/control-plane-ns,!linkerd.io/control-plane-component";
const PROXY: &str = "linkerd-proxy";

/// linkerd-identity-data-plane
pub(super) fn anchors(view: &Arc<View>) -> Category {
    Category {
        name: "linkerd-identity-data-plane",
        checks: vec![check!(
            view,
            "data plane proxies certificate match CA",
            "l5d-identity-data-plane-proxies-certs-match-ca",
            anchors_match
        )],
    }
}

/// linkerd-data-plane
pub(super) fn proxies(view: &Arc<View>) -> Category {
    let mut checks = vec![
        check!(view, "data plane namespace exists", "l5d-data-plane-exists", namespace_exists)
            .fatal(),
        check!(view, "data plane proxies are ready", "l5d-data-plane-ready", ready).fatal().retry(),
        check!(view, "data plane and cli versions match", "l5d-data-plane-cli-version", versions),
    ];
    checks.extend(labels::checks(view));
    Category { name: "linkerd-data-plane", checks }
}

/// The meshed Pods that run.
pub(super) async fn pods(view: &View) -> Result<Vec<Pod>> {
    let mut pods = view.pods(view.namespace.as_deref(), MESHED).await?;
    pods.retain(|pod| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        proxy(pod).is_some() && !matches!(phase, Some("Succeeded" | "Failed"))
    });
    Ok(pods)
}

/// The sidecar of a meshed Pod.
pub(crate) fn proxy(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.into_iter().find(|c| c.name == PROXY)
}

async fn namespace_exists(view: &View) -> Result<Finding> {
    let Some(namespace) = &view.namespace else { return Ok(Finding::Skip) };
    let names = std::slice::from_ref(namespace);
    let missing = view.missing(("", "v1", "Namespace", "namespaces"), None, names).await?;
    Ok(none("there is no such namespace:", missing))
}

async fn ready(view: &View) -> Result<Finding> {
    let mut problems = Vec::new();
    for pod in pods(view).await? {
        let status = pod.status.as_ref();
        let statuses =
            status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
        let mut all = statuses
            .iter()
            .chain(status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default());
        if !all.any(|c| c.name == PROXY && c.ready) {
            problems.push(format!("{}: linkerd-proxy is not ready", pod_name(&pod)));
        }
    }
    Ok(none("look at the logs of the container linkerd-proxy:", problems))
}

async fn versions(view: &View) -> Result<Finding> {
    let mut problems = Vec::new();
    for pod in pods(view).await? {
        let annotations = pod.metadata.annotations.as_ref();
        let version = annotations.and_then(|a| a.get("linkerd.io/proxy-version"));
        if let Some(version) = version.filter(|v| **v != view.version) {
            problems.push(format!("{}: {version}", pod_name(&pod)));
        }
    }
    let intro = format!("restart these Pods to have {}:", view.version);
    Ok(none_or_warn(&intro, problems))
}

async fn anchors_match(view: &View) -> Result<Finding> {
    let values = view.values().await?;
    let pem = values["identityTrustAnchorsPEM"].as_str().unwrap_or_default();
    let ours = roots(pem);
    let mut problems = Vec::new();
    for pod in pods(view).await? {
        let env = proxy(&pod).and_then(|c| c.env.as_deref()).unwrap_or_default();
        let anchors = env.iter().find(|e| e.name == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS");
        // From a ConfigMap: the same for all, and read at the start.
        let Some(theirs) = anchors.and_then(|e| e.value.as_deref()) else { continue };
        if roots(theirs) != ours {
            problems.push(pod_name(&pod));
        }
    }
    Ok(none_or_warn("restart these Pods to have the current trust anchors:", problems))
}

/// Fingerprints in order; empty if the text holds no anchors.
fn roots(pem: &str) -> Vec<String> {
    let bundle = TrustBundle::from_pem(pem.as_bytes());
    let mut prints: Vec<_> =
        bundle.iter().flat_map(TrustBundle::roots).map(|root| root.fingerprint()).collect();
    prints.sort();
    prints
}
