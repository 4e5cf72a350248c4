//! # `mesh prune`
//!
//! Job: print what an older version installed and this one does not have, for `kubectl delete -f -`.
//! May touch: the cluster, reading. Callers: `lib.rs`.

use std::{collections::BTreeSet, process::ExitCode};

use mesh_charts::{CONTROL_PLANE, CRDS, Release};
use serde_json::Value;

use crate::{
    args::Globals,
    block_on,
    install::{render, self_signed},
    listing::{Kind, stubs},
    output::{self, Format},
    upgrade::Stored,
};

/// Kinds that any version may have installed: apiVersion, kind, plural.
const KINDS: [Kind; 27] = [
    ("v1", "ConfigMap", "configmaps"),
    ("batch/v1", "CronJob", "cronjobs"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("apps/v1", "Deployment", "deployments"),
    ("batch/v1", "Job", "jobs"),
    ("policy.linkerd.io/v1alpha1", "MeshTLSAuthentication", "meshtlsauthentications"),
    ("policy.linkerd.io/v1alpha1", "NetworkAuthentication", "networkauthentications"),
    ("v1", "ReplicationController", "replicationcontrollers"),
    ("v1", "Secret", "secrets"),
    ("v1", "Service", "services"),
    ("linkerd.io/v1alpha2", "ServiceProfile", "serviceprofiles"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("policy.linkerd.io/v1beta3", "Server", "servers"),
    ("policy.linkerd.io/v1beta1", "ServerAuthorization", "serverauthorizations"),
    ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy", "authorizationpolicies"),
    ("policy.linkerd.io/v1beta3", "HTTPRoute", "httproutes"),
    ("multicluster.linkerd.io/v1alpha3", "Link", "links"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
    ("apiregistration.k8s.io/v1", "APIService", "apiservices"),
    (
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    ),
    (
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    ),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
];

/// Arguments of `mesh prune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Prints the stubs.
pub(crate) fn run(globals: &Globals, args: &Args) -> ExitCode {
    output::exit(block_on(async {
        let namespace = &globals.linkerd_namespace;
        let client = globals.client().await?;
        let values =
            Stored::from_cluster(&client, namespace).await?.values(CONTROL_PLANE.defaults()?);
        let mut wanted = render(namespace, &values)?;
        let release = Release::cli(namespace);
        wanted.extend(CRDS.render(release, &CRDS.defaults()?, &self_signed)?);
        let wanted: BTreeSet<_> = wanted.iter().map(key).collect();
        let mut surplus = Vec::new();
        for kind in KINDS {
            let found =
                stubs(&client, kind, &format!("linkerd.io/control-plane-ns={namespace}")).await?;
            surplus.extend(found.into_iter().filter(|object| !wanted.contains(&key(object))));
        }
        output::manifests(&surplus, args.output)?;
        Ok(())
    }))
}

/// What tells objects apart, whatever the version of their kind.
fn key(object: &Value) -> [String; 4] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&object["apiVersion"]);
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
    let meta = &object["metadata"];
    [group, text(&object["kind"]), text(&meta["namespace"]), text(&meta["name"])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_the_same_in_every_version_of_its_kind() {
        let object = |version: &str| json!({ "apiVersion": version, "kind": "Server", "metadata": { "name": "a", "namespace": "b" } });
        let one = key(&object("policy.linkerd.io/v1beta1"));
        assert_eq!(one, key(&object("policy.linkerd.io/v1beta3")));
        assert_ne!(one, key(&object("v1beta3")));
    }
}
