//! # Built-in kinds
//!
//! Job: one row a kind: names, scope, subresources and the rules of its own, as Kubernetes' discovery lists them.
//! May touch: the schema file. Must not touch: objects.
//! Callers: `registry`.

use std::sync::Arc;

use super::{Resource, Subresource, Verbs};
use crate::{
    api::kinds::{self, Strategy},
    schema,
};

use Subresource::{Binding, Eviction, Finalize, Log, Scale, Status, Token};

struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    create_only: bool,
    subresources: &'static [Subresource],
    strategy: &'static Strategy,
    deprecation: Option<&'static str>,
}

const BASE: Row = Row {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    create_only: false,
    subresources: &[],
    strategy: &kinds::PLAIN,
    deprecation: None,
};
const ALL: &[&str] = &["all"];
const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHN: &str = "authentication.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

static ROWS: &[Row] = &[
    Row { kind: "ConfigMap", plural: "configmaps", short_names: &["cm"], ..BASE },
    Row {
        kind: "Endpoints",
        plural: "endpoints",
        short_names: &["ep"],
        deprecation: Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ),
        ..BASE
    },
    Row { kind: "Event", plural: "events", short_names: &["ev"], ..BASE },
    Row {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        namespaced: false,
        subresources: &[Status, Finalize],
        strategy: &kinds::NAMESPACE,
        ..BASE
    },
    Row {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        namespaced: false,
        subresources: &[Status],
        strategy: &kinds::STATUSFUL,
        ..BASE
    },
    Row {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: ALL,
        subresources: &[Status, Log, Binding, Eviction],
        strategy: &kinds::POD,
        ..BASE
    },
    Row {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        short_names: &["rc"],
        categories: ALL,
        subresources: &[Status, Scale],
        strategy: &kinds::WORKLOAD,
        ..BASE
    },
    Row { kind: "Secret", plural: "secrets", strategy: &kinds::SECRET, ..BASE },
    Row {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        subresources: &[Token],
        ..BASE
    },
    Row {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: ALL,
        subresources: &[Status],
        strategy: &kinds::SERVICE,
        ..BASE
    },
    Row {
        group: AUTHN,
        kind: "TokenReview",
        plural: "tokenreviews",
        namespaced: false,
        create_only: true,
        ..BASE
    },
    Row {
        group: AUTHN,
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        namespaced: false,
        create_only: true,
        ..BASE
    },
    Row {
        group: AUTHZ,
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        create_only: true,
        ..BASE
    },
    Row {
        group: AUTHZ,
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        namespaced: false,
        create_only: true,
        ..BASE
    },
    Row {
        group: AUTHZ,
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        namespaced: false,
        create_only: true,
        ..BASE
    },
    Row {
        group: AUTHZ,
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        namespaced: false,
        create_only: true,
        ..BASE
    },
    Row {
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        short_names: &["ds"],
        categories: ALL,
        subresources: &[Status],
        strategy: &kinds::WORKLOAD,
        ..BASE
    },
    Row {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        categories: ALL,
        subresources: &[Status, Scale],
        strategy: &kinds::DEPLOYMENT,
        ..BASE
    },
    Row {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        categories: ALL,
        subresources: &[Status, Scale],
        strategy: &kinds::REPLICA_SET,
        ..BASE
    },
    Row {
        group: "apps",
        kind: "StatefulSet",
        plural: "statefulsets",
        short_names: &["sts"],
        categories: ALL,
        subresources: &[Status, Scale],
        strategy: &kinds::WORKLOAD,
        ..BASE
    },
    Row {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        short_names: &["cj"],
        categories: ALL,
        subresources: &[Status],
        strategy: &kinds::STATUSFUL,
        ..BASE
    },
    Row {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        categories: ALL,
        subresources: &[Status],
        strategy: &kinds::STATUSFUL,
        ..BASE
    },
    Row { group: "coordination.k8s.io", kind: "Lease", plural: "leases", ..BASE },
    Row {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        strategy: &kinds::ENDPOINT_SLICE,
        ..BASE
    },
    Row { group: "events.k8s.io", kind: "Event", plural: "events", short_names: &["ev"], ..BASE },
    Row {
        group: "policy",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        short_names: &["pdb"],
        subresources: &[Status],
        strategy: &kinds::STATUSFUL,
        ..BASE
    },
    Row {
        group: RBAC,
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        namespaced: false,
        strategy: &kinds::ROLE_BINDING,
        ..BASE
    },
    Row {
        group: RBAC,
        kind: "ClusterRole",
        plural: "clusterroles",
        namespaced: false,
        strategy: &kinds::ROLE,
        ..BASE
    },
    Row {
        group: RBAC,
        kind: "RoleBinding",
        plural: "rolebindings",
        strategy: &kinds::ROLE_BINDING,
        ..BASE
    },
    Row { group: RBAC, kind: "Role", plural: "roles", strategy: &kinds::ROLE, ..BASE },
    Row {
        group: ADMISSION,
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        categories: &["api-extensions"],
        namespaced: false,
        strategy: &kinds::WEBHOOK,
        ..BASE
    },
    Row {
        group: ADMISSION,
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        categories: &["api-extensions"],
        namespaced: false,
        strategy: &kinds::WEBHOOK,
        ..BASE
    },
    Row {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Status],
        strategy: &kinds::DEFINITION,
        ..BASE
    },
];

pub(super) fn resources() -> Vec<Arc<Resource>> {
    ROWS.iter().map(|row| Arc::new(row.resource())).collect()
}

impl Row {
    fn resource(&self) -> Resource {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        // Events of both groups are one set of objects.
        let stored_group = if self.group == "events.k8s.io" { "" } else { self.group };
        Resource {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.into(),
            singular: self.kind.to_lowercase(),
            short_names: owned(self.short_names),
            categories: owned(self.categories),
            namespaced: self.namespaced,
            table: format!("{stored_group}/{}", self.plural),
            storage_version: self.version.into(),
            verbs: if self.create_only { Verbs::CreateOnly } else { Verbs::All },
            subresources: self.subresources.to_vec(),
            schema: schema::builtin_kind(self.group, self.version, self.kind),
            strategy: self.strategy,
            deprecation: self.deprecation.map(str::to_owned),
            custom: None,
        }
    }
}
