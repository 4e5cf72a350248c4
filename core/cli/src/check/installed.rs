//! # Checks of the control plane
//!
//! Job: is everything that an installation brings there and ready, of the right version, and is there
//! anything in the cluster that this version does not obey.
//! May touch: the cluster, reading. Callers: `check`.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Node, Pod, Service},
};
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use mesh_k8s::policy::AuthorizationPolicy;
use mesh_policy::{unenforced_kinds, unenforced_part};
use serde_json::Value;

use super::{
    Category, check, kubernetes,
    view::{Finding, View, none, none_or_warn, pod_name},
};

const COMPONENT: &str = "linkerd.io/control-plane-component";
const CONTROLLERS: [&str; 3] =
    ["linkerd-destination", "linkerd-identity", "linkerd-proxy-injector"];

/// linkerd-existence
pub(super) fn existence(view: &Arc<View>) -> Category {
    Category {
        name: "linkerd-existence",
        checks: vec![
            check!(
                view,
                "'linkerd-config' config map exists",
                "l5d-existence-linkerd-config",
                config_exists
            )
            .fatal(),
            check!(
                view,
                "control plane replica sets are ready",
                "l5d-existence-replicasets",
                replica_sets
            )
            .fatal()
            .retry(),
            check!(
                view,
                "no unschedulable pods",
                "l5d-existence-unschedulable-pods",
                unschedulable
            )
            .retry(),
            check!(view, "control plane pods are ready", "l5d-api-control-ready", pods_ready)
                .fatal()
                .retry(),
            check!(
                view,
                "cluster networks contains all node podCIDRs",
                "l5d-cluster-networks-cidr",
                node_networks
            ),
            check!(
                view,
                "cluster networks contains all pods",
                "l5d-cluster-networks-pods",
                pod_networks
            ),
            check!(
                view,
                "cluster networks contains all services",
                "l5d-cluster-networks-pods",
                service_networks
            ),
        ],
    }
}

/// linkerd-config
pub(super) fn config(view: &Arc<View>) -> Category {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let per_namespace = |view: &View| {
        let name = |part: &str| format!("linkerd-{}-{part}", view.control);
        vec![name("identity"), name("destination"), name("proxy-injector")]
    };
    let exist = |kind: (&'static str, &'static str, &'static str, &'static str),
                 namespaced: bool,
                 names: Vec<String>| {
        move |view: &Arc<View>| {
            let (view, names) = (view.clone(), names.clone());
            async move {
                let namespace = namespaced.then(|| view.control.clone());
                let missing = view.missing(kind, namespace.as_deref(), &names).await?;
                Ok(none("apply the output of `mesh install` again; missing:", missing))
            }
        }
    };
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    Category {
        name: "linkerd-config",
        checks: vec![
            check!(
                view,
                "control plane Namespace exists",
                "l5d-existence-ns",
                exist(("", "v1", "Namespace", "namespaces"), false, vec![view.control.clone()])
            )
            .fatal(),
            check!(
                view,
                "control plane ClusterRoles exist",
                "l5d-existence-cr",
                exist((RBAC, "v1", "ClusterRole", "clusterroles"), false, per_namespace(view))
            )
            .fatal(),
            check!(
                view,
                "control plane ClusterRoleBindings exist",
                "l5d-existence-crb",
                exist(
                    (RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"),
                    false,
                    per_namespace(view)
                )
            )
            .fatal(),
            check!(
                view,
                "control plane ServiceAccounts exist",
                "l5d-existence-sa",
                exist(("", "v1", "ServiceAccount", "serviceaccounts"), true, names(&CONTROLLERS))
            )
            .fatal(),
            check!(
                view,
                "control plane CustomResourceDefinitions exist",
                "l5d-existence-crd",
                kubernetes::crds_exist
            )
            .fatal(),
            check!(
                view,
                "control plane MutatingWebhookConfigurations exist",
                "l5d-existence-mwc",
                exist(
                    (
                        "admissionregistration.k8s.io",
                        "v1",
                        "MutatingWebhookConfiguration",
                        "mutatingwebhookconfigurations"
                    ),
                    false,
                    names(&["linkerd-proxy-injector-webhook-config"])
                )
            )
            .fatal(),
        ],
    }
}

/// control-plane-version
pub(super) fn version(view: &Arc<View>) -> Category {
    Category {
        name: "control-plane-version",
        checks: vec![
            check!(
                view,
                "can retrieve the control plane version",
                "l5d-version-control",
                version_known
            )
            .fatal()
            .retry(),
            check!(
                view,
                "control plane and cli versions match",
                "l5d-version-control",
                versions_match
            ),
        ],
    }
}

/// linkerd-ha-checks
pub(super) fn high_availability(view: &Arc<View>) -> Category {
    Category {
        name: "linkerd-ha-checks",
        checks: vec![
            check!(
                view,
                "multiple replicas of control plane pods",
                "l5d-control-plane-replicas",
                replicas
            )
            .retry(),
        ],
    }
}

/// Objects that are accepted, but that nothing here obeys.
pub(super) fn unenforced(view: &Arc<View>) -> Category {
    Category {
        name: "linkerd-policy",
        checks: vec![check!(
            view,
            "all policy and routing objects are obeyed by this version",
            "l5d-policy-unenforced",
            all_obeyed
        )],
    }
}

async fn config_exists(view: &View) -> Result<Finding> {
    view.values().await.map(|_| Finding::Good)
}

async fn replica_sets(view: &View) -> Result<Finding> {
    let api: Api<ReplicaSet> = Api::namespaced(view.client().await?, &view.control);
    let sets = api
        .list(&ListParams::default().labels(COMPONENT))
        .await
        .context("cannot list ReplicaSets")?;
    let mut problems = Vec::new();
    for set in &sets.items {
        let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let ready = set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        if ready < wanted {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            problems.push(format!("{name}: {ready} of {wanted} ready"));
        }
    }
    if sets.items.is_empty() {
        problems.push("there are no ReplicaSets of the control plane".to_owned());
    }
    Ok(none("look at them with `kubectl describe`:", problems))
}

async fn unschedulable(view: &View) -> Result<Finding> {
    let mut problems = Vec::new();
    for pod in view.pods(Some(&view.control), COMPONENT).await? {
        let conditions =
            pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let stuck = conditions.iter().find(|c| c.reason.as_deref() == Some("Unschedulable"));
        if let Some(condition) = stuck {
            let why = condition.message.as_deref().unwrap_or_default();
            problems.push(format!("{}: {why}", pod_name(&pod)));
        }
    }
    Ok(none_or_warn("no node takes these Pods:", problems))
}

async fn pods_ready(view: &View) -> Result<Finding> {
    let pods = view.pods(Some(&view.control), COMPONENT).await?;
    let mut problems = Vec::new();
    for component in ["destination", "identity", "proxy-injector"] {
        let mut of = pods.iter().filter(|p| {
            p.metadata
                .labels
                .as_ref()
                .and_then(|l| l.get(COMPONENT))
                .is_some_and(|c| c == component)
        });
        if !of.any(is_ready) {
            problems.push(format!("no Pod of linkerd-{component} is ready"));
        }
    }
    let logs = format!("see `kubectl -n {} get pods` and their logs:", view.control);
    Ok(none(&logs, problems))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The networks that count as the cluster's.
async fn networks(view: &View) -> Result<Vec<ipnet::IpNet>> {
    let values = view.values().await?;
    let text = values["clusterNetworks"].as_str().unwrap_or_default();
    text.split(',')
        .map(|n| n.trim().parse().with_context(|| format!("clusterNetworks: `{n}` is no network")))
        .collect()
}

const NETWORKS: &str = "add what is missing to the value clusterNetworks; outside of it are:";

async fn node_networks(view: &View) -> Result<Finding> {
    let networks = networks(view).await?;
    let api: Api<Node> = Api::all(view.client().await?);
    let nodes = api.list(&ListParams::default()).await.context("cannot list Nodes")?;
    let ranges = nodes.items.iter().filter_map(|n| n.spec.as_ref()?.pod_cidr.as_deref());
    let ranges: Vec<&str> = ranges.filter(|range| !range.is_empty()).collect();
    if ranges.is_empty() {
        return Ok(Finding::Skip);
    }
    let outside = ranges.iter().filter(|range| match range.parse::<ipnet::IpNet>() {
        Ok(range) => !networks.iter().any(|n| n.contains(&range)),
        Err(_) => false,
    });
    Ok(none(NETWORKS, outside.map(|range| (*range).to_owned()).collect()))
}

fn outside(networks: &[ipnet::IpNet], address: Option<&str>) -> bool {
    let address = address.and_then(|a| a.parse::<IpAddr>().ok());
    address.is_some_and(|ip| !networks.iter().any(|n| n.contains(&ip)))
}

async fn pod_networks(view: &View) -> Result<Finding> {
    let networks = networks(view).await?;
    let mut problems = Vec::new();
    for pod in view.pods(None, "").await? {
        let host = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        let address = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
        if !host && outside(&networks, address) {
            problems.push(format!("Pod {} {}", pod_name(&pod), address.unwrap_or_default()));
        }
    }
    Ok(none(NETWORKS, problems))
}

async fn service_networks(view: &View) -> Result<Finding> {
    let networks = networks(view).await?;
    let api: Api<Service> = Api::all(view.client().await?);
    let services = api.list(&ListParams::default()).await.context("cannot list Services")?;
    let mut problems = Vec::new();
    for service in &services.items {
        let address = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
        if outside(&networks, address) {
            let meta = service.meta();
            problems.push(format!(
                "Service {}/{} {}",
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
                address.unwrap_or_default()
            ));
        }
    }
    Ok(none(NETWORKS, problems))
}

async fn server_version(view: &View) -> Result<String> {
    let values = view.values().await?;
    let version = values["linkerdVersion"].as_str().unwrap_or_default();
    anyhow::ensure!(!version.is_empty(), "linkerd-config has no linkerdVersion; install again");
    Ok(version.to_owned())
}

async fn version_known(view: &View) -> Result<Finding> {
    server_version(view).await.map(|_| Finding::Good)
}

async fn versions_match(view: &View) -> Result<Finding> {
    let version = server_version(view).await?;
    Ok(match version == view.version {
        true => Finding::Good,
        false => Finding::Warn(format!(
            "the control plane runs {version} but this command is {}; use the same version of both",
            view.version
        )),
    })
}

async fn replicas(view: &View) -> Result<Finding> {
    if view.values().await?["highAvailability"] != Value::Bool(true) {
        return Ok(Finding::Skip);
    }
    let api: Api<Deployment> = Api::namespaced(view.client().await?, &view.control);
    let mut problems = Vec::new();
    for name in CONTROLLERS {
        let deployment = api.get(name).await.with_context(|| format!("cannot read {name}"))?;
        let available = deployment.status.and_then(|s| s.available_replicas).unwrap_or(0);
        if available < 2 {
            problems.push(format!("{name}: {available} available"));
        }
    }
    Ok(none_or_warn("more than one replica should be available:", problems))
}

async fn all_obeyed(view: &View) -> Result<Finding> {
    let client = view.client().await?;
    let mut problems = Vec::new();
    for kind in unenforced_kinds() {
        let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let objects = match api.list_metadata(&ListParams::default()).await {
            Ok(objects) => objects.items,
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error).context(format!("cannot list {}", kind.plural)),
        };
        for object in objects {
            let meta = object.metadata;
            problems.push(format!(
                "{} {}/{} ({})",
                kind.kind,
                meta.namespace.unwrap_or_default(),
                meta.name.unwrap_or_default(),
                kind.group
            ));
        }
    }
    let policies: Api<AuthorizationPolicy> = Api::all(client);
    for policy in
        policies.list(&ListParams::default()).await.context("cannot list AuthorizationPolicies")?
    {
        if let Some(part) = unenforced_part(&policy) {
            problems.push(format!(
                "AuthorizationPolicy {}/{}: {part}",
                policy.metadata.namespace.unwrap_or_default(),
                policy.metadata.name.unwrap_or_default()
            ));
        }
    }
    Ok(none_or_warn("these have no effect yet; do not rely on them:", problems))
}
