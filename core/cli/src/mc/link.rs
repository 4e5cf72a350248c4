//! # `mesh multicluster link`
//!
//! Job: all that an importing cluster needs: what `link-gen` prints, and the right of the mirror to read
//! this Link's Secret. Also the list of Links, for the verbs that need it.
//! May touch: one cluster, reading. Callers: `mc`.

use super::{link_gen, unlink::role};
use crate::{args::Globals, output};
use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use mesh_k8s::{link::Link, names};
use serde_json::{Value, json};

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: link_gen::Args) -> Result<()> {
    let linked = link_gen::objects(globals, &args).await?;
    // The rights first: the mirror asks for the Secret as soon as it sees the Link.
    let mut printed = rights(args.cluster_name(), args.namespace()).to_vec();
    printed.extend(linked);
    output::manifests(&printed, args.format())?;
    Ok(())
}

/// Role and RoleBinding for the one Secret.
fn rights(cluster: &str, namespace: &str) -> [Value; 2] {
    let meta = json!({
        "name": role(cluster), "namespace": namespace,
        "labels": {
            "linkerd.io/extension": "multicluster",
            "component": "controller",
            "mirror.linkerd.io/cluster-name": cluster,
        },
        "annotations": { "linkerd.io/created-by": link_gen::created_by() },
    });
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta,
            "rules": [{
                "apiGroups": [""], "resources": ["secrets"],
                "resourceNames": [names::credentials(cluster)], "verbs": ["list", "get", "watch"],
            }],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role(cluster) },
            "subjects": [{ "kind": "ServiceAccount", "name": names::SERVICE_MIRROR, "namespace": namespace }],
        }),
    ]
}

/// Why the mirror cannot use a Link.
pub(super) fn problem(link: &Link) -> Option<String> {
    let object = serde_json::to_value(link).and_then(serde_json::from_value::<DynamicObject>);
    match object {
        Ok(object) => mesh_link::Link::parse(&object).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// All Links of the cluster; none if the kind is not served.
///
/// # Errors
/// When the API refuses to list them.
pub(super) async fn all(client: &Client, params: &ListParams) -> Result<Vec<Link>> {
    match Api::<Link>::all(client.clone()).list(params).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot list Links"),
    }
}
