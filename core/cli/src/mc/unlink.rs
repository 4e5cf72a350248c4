//! # `mesh multicluster unlink`
//!
//! Job: prints what removes a Link, its credentials and its mirrors.
//! May touch: one cluster, reading. Callers: `mc`.

use crate::{
    args::Globals,
    listing::{Kind, existing, stubs},
    output::{self, Format},
};
use anyhow::{Context, Result};
use kube::api::ListParams;
use mesh_k8s::names;

/// The controller that Linkerd's deprecated `link` printed per Link.
const LEGACY: [Kind; 6] = [
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
    ROLE,
    ROLE_BINDING,
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("apps/v1", "Deployment", "deployments"),
];

const ROLE: Kind = ("rbac.authorization.k8s.io/v1", "Role", "roles");
const ROLE_BINDING: Kind = ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings");

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Cluster to unlink
    #[arg(long)]
    cluster_name: String,
    /// Namespace of the Link
    #[arg(long, default_value = names::MULTICLUSTER_NAMESPACE)]
    namespace: String,
    /// Remove only a controller of this Link's own, and keep Link, credentials and mirrors
    #[arg(long)]
    only_controller: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<()> {
    let client = globals.client().await?;
    let cluster = args.cluster_name.as_str();
    let links = super::link::all(&client, &ListParams::default()).await?;
    let link = links
        .iter()
        .find(|l| {
            l.metadata.name.as_deref() == Some(cluster)
                && l.metadata.namespace.as_deref() == Some(&args.namespace)
        })
        .with_context(|| {
            format!(
                "there is no Link {cluster} in namespace {}; list them with `kubectl get links -A`",
                args.namespace
            )
        })?;
    let of_cluster = format!("mirror.linkerd.io/cluster-name={cluster}");
    let mut found = Vec::new();
    for kind in LEGACY {
        found.extend(stubs(&client, kind, &of_cluster).await?);
    }
    if link.spec.probe_spec.as_ref().is_some_and(|p| !p.path.is_empty()) {
        let probes = format!("mirror.linkerd.io/mirrored-gateway=true,{of_cluster}");
        found.extend(stubs(&client, ("v1", "Service", "services"), &probes).await?);
    }
    if !args.only_controller {
        let (role, lease) = (role(cluster), names::lease(cluster));
        let own: [(Kind, &str); 5] = [
            (ROLE, &role),
            (ROLE_BINDING, &role),
            (("v1", "Secret", "secrets"), &link.spec.cluster_credentials_secret),
            (("multicluster.linkerd.io/v1alpha3", "Link", "links"), cluster),
            (("coordination.k8s.io/v1", "Lease", "leases"), &lease),
        ];
        for (kind, name) in own {
            found.extend(existing(&client, kind, &args.namespace, name).await?);
        }
        let mirrors = format!("mirror.linkerd.io/mirrored-service=true,{of_cluster}");
        found.extend(stubs(&client, ("v1", "Service", "services"), &mirrors).await?);
        let credentials = format!("multicluster.linkerd.io/cluster-name={cluster}");
        found.extend(stubs(&client, ("v1", "Secret", "secrets"), &credentials).await?);
        let mut seen = Vec::new();
        found.retain(|object| {
            !seen.contains(object) && {
                seen.push(object.clone());
                true
            }
        });
    }
    output::manifests(&found, args.output)?;
    Ok(())
}

/// Role and RoleBinding that let the mirror read one Link's credentials.
pub(super) fn role(cluster: &str) -> String {
    format!("controller-read-remote-creds-{cluster}")
}
