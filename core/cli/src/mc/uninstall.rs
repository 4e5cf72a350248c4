//! # `mesh multicluster uninstall`
//!
//! Job: prints what removes the extension; refuses while there are Links.
//! May touch: one cluster, reading. Callers: `mc`.

use crate::{
    args::Globals,
    listing::{Kind, stubs},
    output::{self, Format},
};
use anyhow::{Result, bail};
use kube::api::ListParams;
use mesh_k8s::link::Link;

/// What an install may have made; in the order in which it is safe to remove.
const KINDS: [Kind; 9] = [
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
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
    ("v1", "Namespace", "namespaces"),
];

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<()> {
    let client = globals.client().await?;
    let links = super::link::all(&client, &ListParams::default()).await?;
    if !links.is_empty() {
        let names: Vec<String> =
            links.iter().map(|l: &Link| format!("* {}", l.spec.target_cluster_name)).collect();
        bail!(
            "Please unlink the following clusters before uninstalling multicluster (`mesh multicluster unlink`):\n{}",
            names.join("\n")
        );
    }
    let mut found = Vec::new();
    for kind in KINDS {
        found.extend(
            stubs(&client, kind, "linkerd.io/extension in (multicluster, linkerd-multicluster)")
                .await?,
        );
    }
    if found.is_empty() {
        bail!("No resources found to uninstall");
    }
    output::manifests(&found, args.output)?;
    Ok(())
}
