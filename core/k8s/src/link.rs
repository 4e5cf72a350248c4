//! # Link objects
//!
//! Job: the `multicluster.linkerd.io` Link as the API server serves it: text fields, status.
//! May touch: serde. Must not touch: meaning; `mesh-link` parses the fields.
//! Callers: `link`, `mirror`, the CLI.

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, Time},
};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// API group of Links.
pub const GROUP: &str = "multicluster.linkerd.io";
/// Served versions, oldest first; the last one is stored.
pub const VERSIONS: [&str; 3] = ["v1alpha1", "v1alpha2", "v1alpha3"];

/// What the importing cluster knows of an exporting one. All numbers and durations are text on the wire.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "multicluster.linkerd.io",
    version = "v1alpha3",
    kind = "Link",
    plural = "links",
    namespaced,
    status = "LinkStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkSpec {
    /// Name of the exporting cluster: suffix of mirrors, value of labels.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_cluster_name: String,
    /// DNS domain of the exporting cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_cluster_domain: String,
    /// Control-plane namespace of the exporting cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_cluster_linkerd_namespace: String,
    /// Secret with the kubeconfig, in the Link's namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_credentials_secret: String,
    /// Comma list of IPs and host names; empty: no gateway.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_address: String,
    /// Decimal port.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_port: String,
    /// Mesh identity of the gateway.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_identity: String,
    /// How the gateway is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_spec: Option<ProbeSpec>,
    /// Services mirrored through the gateway; absent or empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Services mirrored Pod to Pod; absent or empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_discovery_selector: Option<LabelSelector>,
    /// Members of federated Services; absent or empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub federated_service_selector: Option<LabelSelector>,
    /// Annotations that are not copied: a key, or `prefix/*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded_annotations: Option<Vec<String>>,
    /// Labels that are not copied: a key, or `prefix/*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded_labels: Option<Vec<String>>,
}

/// Probe settings as text. All-empty is meaningful: it makes the API server fill in defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProbeSpec {
    /// Path; empty: no probe.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Decimal port.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// Go duration between attempts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub period: String,
    /// Go duration of one attempt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timeout: String,
    /// Decimal count of failures in a row that make a gateway dead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_threshold: String,
}

/// What the mirror reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkStatus {
    /// One entry a mirrored (or refused) Service.
    pub mirror_services: Vec<ServiceStatus>,
    /// One entry a federated member.
    pub federated_services: Vec<ServiceStatus>,
}

/// State of one exported Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Who wrote the entry.
    pub controller_name: String,
    /// The exported Service.
    pub remote_ref: ObjectRef,
    /// Exactly one condition, of type `Mirrored`.
    pub conditions: Vec<Condition>,
}

/// A namespaced object of the core group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectRef {
    /// API group, empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

impl ObjectRef {
    /// A Service.
    pub fn service(namespace: &str, name: &str) -> Self {
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        Self { group: String::new(), kind: "Service".into(), name, namespace }
    }

    /// The reference as Events carry it.
    pub fn object_reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some(self.kind.clone()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            api_version: Some("v1".into()),
            ..ObjectReference::default()
        }
    }
}

/// A condition of a [`ServiceStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Mirrored`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// One sentence, empty if all is well.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// The mirror, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_ref: Option<ObjectRef>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_link_round_trips() {
        let wire = json!({
            "apiVersion": "multicluster.linkerd.io/v1alpha3", "kind": "Link",
            "metadata": {"name": "e1", "namespace": "linkerd-multicluster"},
            "spec": {"targetClusterName": "e1", "gatewayPort": "4143", "probeSpec": {"path": "/ready"},
                     "selector": {"matchLabels": {"mirror.linkerd.io/exported": "true"}}},
            "status": {"mirrorServices": [{"controllerName": "linkerd.io/service-mirror",
                "remoteRef": {"group": "", "kind": "Service", "name": "shop", "namespace": "web"},
                "conditions": [{"type": "Mirrored", "status": "True", "reason": "Mirrored", "message": "",
                    "lastTransitionTime": "2026-01-02T03:04:05Z",
                    "localRef": {"group": "", "kind": "Service", "name": "shop-e1", "namespace": "web"}}]}],
                "federatedServices": []}
        });
        let link: Link = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(link.spec.probe_spec.as_ref().unwrap().path, "/ready");
        assert_eq!(serde_json::to_value(&link).unwrap(), wire);
    }
}
