//! # Checks of Kubernetes itself
//!
//! Job: can the API be asked, is it new enough, may the mesh be installed, are the CRDs there.
//! May touch: the cluster, reading. Callers: `check`.

use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        },
        core::v1::Node,
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use mesh_charts::{CONTROL_PLANE, CRDS, Release, values};
use serde_json::{Value, json};

use super::{
    Category, check,
    view::{Finding, View, none, none_or_warn},
};
use crate::install::{missing_crds, self_signed};

/// The oldest minor version that is supported.
const MINOR: u32 = 31;
/// Kubelets report at least every 5 min, in s; and clocks may be 10 s apart.
const SKEW: i64 = 310;

/// kubernetes-api
pub(super) fn api(view: &Arc<View>) -> Category {
    Category {
        name: "kubernetes-api",
        checks: vec![
            check!(view, "can initialize the client", "k8s-api", client).fatal(),
            check!(view, "can query the Kubernetes API", "k8s-api", query).fatal(),
        ],
    }
}

/// kubernetes-version
pub(super) fn version(view: &Arc<View>) -> Category {
    let text = "is running the minimum Kubernetes API version";
    Category {
        name: "kubernetes-version",
        checks: vec![check!(view, text, "k8s-version", minimum)],
    }
}

/// pre-kubernetes-setup
pub(super) fn before_installation(view: &Arc<View>) -> Category {
    let mut checks = vec![
        check!(view, "control plane namespace does not already exist", "pre-ns", namespace_absent),
        check!(view, "can create non-namespaced resources", "pre-k8s-cluster-k8s", cluster_objects),
    ];
    for (text, group, resource, verb) in [
        ("can create ServiceAccounts", "", "serviceaccounts", "create"),
        ("can create Services", "", "services", "create"),
        ("can create Deployments", "apps", "deployments", "create"),
        ("can create ConfigMaps", "", "configmaps", "create"),
        ("can create Secrets", "", "secrets", "create"),
        ("can read Secrets", "", "secrets", "get"),
    ] {
        let probe = move |view: &Arc<View>| {
            let view = view.clone();
            async move {
                let namespace = view.control.clone();
                may(&view, Some(&namespace), group, resource, verb).await
            }
        };
        checks.push(check!(view, text, "pre-k8s", probe));
    }
    checks.push(check!(view, "no clock skew detected", "pre-k8s-clock-skew", clocks));
    Category { name: "pre-kubernetes-setup", checks }
}

/// linkerd-crd
pub(super) fn crds(view: &Arc<View>) -> Category {
    let text = "control plane CustomResourceDefinitions exist";
    Category {
        name: "linkerd-crd",
        checks: vec![check!(view, text, "l5d-existence-crd", crds_exist).fatal().retry()],
    }
}

async fn client(view: &View) -> Result<Finding> {
    view.client().await.map(|_| Finding::Good)
}

async fn query(view: &View) -> Result<Finding> {
    let client = view.client().await?;
    client
        .apiserver_version()
        .await
        .context("cannot ask the server in the kubeconfig for its version")?;
    Ok(Finding::Good)
}

async fn minimum(view: &View) -> Result<Finding> {
    let version = view.client().await?.apiserver_version().await?;
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(0)
    };
    let (major, minor) = (number(&version.major), number(&version.minor));
    Ok(match (major, minor) >= (1, MINOR) {
        true => Finding::Good,
        false => Finding::Bad(format!(
            "Kubernetes is {}; at least 1.{MINOR} is needed",
            version.git_version
        )),
    })
}

async fn namespace_absent(view: &View) -> Result<Finding> {
    let names = [view.control.clone()];
    let missing = view.missing(("", "v1", "Namespace", "namespaces"), None, &names).await?;
    Ok(match missing.is_empty() {
        false => Finding::Good,
        true => Finding::Bad(format!(
            "the namespace {} exists; remove it, or name another with --linkerd-namespace",
            view.control
        )),
    })
}

/// Kinds without a namespace that an installation creates.
async fn cluster_objects(view: &View) -> Result<Finding> {
    let mut all = CONTROL_PLANE.defaults()?;
    let placeholder = json!({
        "identityTrustAnchorsPEM": "-",
        "identity": {"issuer": {"tls": {"crtPEM": "-", "keyPEM": "-"}}},
    });
    values::merge(&mut all, &placeholder);
    let release = Release::cli(&view.control);
    let mut objects = CONTROL_PLANE.render(release, &all, &self_signed)?;
    objects.extend(CRDS.render(release, &CRDS.defaults()?, &self_signed)?);
    let mut asked = Vec::new();
    let mut denied = Vec::new();
    for object in objects.iter().filter(|o| o["metadata"]["namespace"].is_null()) {
        let (group, resource) = resource_of(object);
        if asked.contains(&resource) {
            continue;
        }
        if !allowed(view, None, &group, &resource, "create").await? {
            denied.push(format!("not allowed to create {resource}"));
        }
        asked.push(resource);
    }
    Ok(none("an installation needs more rights:", denied))
}

/// Certificates are valid from now on: a clock that is behind refuses them.
async fn clocks(view: &View) -> Result<Finding> {
    let api: Api<Node> = Api::all(view.client().await?);
    let nodes = api.list(&ListParams::default()).await.context("cannot list Nodes")?;
    let now = Timestamp::now();
    let wrong = nodes.iter().filter_map(|node| skew(node, now));
    Ok(none_or_warn("set the clocks of these nodes, or of this machine:", wrong.collect()))
}

/// How a node's clock differs, if it does by more than its reports are apart.
fn skew(node: &Node, now: Timestamp) -> Option<String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    let seconds = now.duration_since(ready.last_heartbeat_time.as_ref()?.0).as_secs();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    (seconds.abs() > SKEW).then(|| match seconds > 0 {
        true => format!("{name}: its last report is {seconds} s old"),
        false => format!("{name}: its last report is {} s in the future", -seconds),
    })
}

fn resource_of(object: &Value) -> (String, String) {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let group = api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    (group, format!("{kind}s"))
}

async fn may(
    view: &View,
    namespace: Option<&str>,
    group: &str,
    resource: &str,
    verb: &str,
) -> Result<Finding> {
    Ok(match allowed(view, namespace, group, resource, verb).await? {
        true => Finding::Good,
        false => Finding::Bad(format!("not allowed to {verb} {resource}; use an account that may")),
    })
}

async fn allowed(
    view: &View,
    namespace: Option<&str>,
    group: &str,
    resource: &str,
    verb: &str,
) -> Result<bool> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(ToOwned::to_owned),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(view.client().await?);
    let answer = api
        .create(&PostParams::default(), &review)
        .await
        .with_context(|| format!("cannot ask whether {resource} may be changed"))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

pub(super) async fn crds_exist(view: &View) -> Result<Finding> {
    let missing = missing_crds(&view.client().await?).await?;
    Ok(none("install them with `mesh install --crds | kubectl apply -f -`; missing:", missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_is_told() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let node = |at: &str, status: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": { "name": "n" },
                "status": { "conditions": [
                    { "type": "Ready", "status": status, "lastHeartbeatTime": at },
                ] },
            }))
            .unwrap()
        };
        assert_eq!(skew(&node("2026-01-01T00:05:00Z", "True"), now), None);
        assert_eq!(skew(&node("2026-01-01T00:00:00Z", "False"), now), None);
        let old = skew(&node("2026-01-01T00:00:00Z", "True"), now).unwrap();
        assert_eq!(old, "n: its last report is 600 s old");
        let early = skew(&node("2026-01-01T01:00:00Z", "True"), now).unwrap();
        assert_eq!(early, "n: its last report is 3000 s in the future");
    }
}
