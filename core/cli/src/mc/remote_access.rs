//! # Remote access: `mesh multicluster allow`
//!
//! Job: the ServiceAccount and rights that an importing cluster uses in this one.
//! May touch: one cluster, reading. Callers: `mc`.

use crate::{
    args::{Globals, VERSION},
    output::{self, Format},
};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use mesh_k8s::names;
use serde_json::{Value, json};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// ServiceAccount to make
    #[arg(long)]
    service_account_name: String,
    /// Namespace of the extension
    #[arg(long, default_value = names::MULTICLUSTER_NAMESPACE)]
    namespace: String,
    /// Do not look whether the ServiceAccount exists already
    #[arg(long)]
    ignore_cluster: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<()> {
    let name = args.service_account_name.as_str();
    if !args.ignore_cluster {
        let client = globals.client().await?;
        let api: Api<ServiceAccount> = Api::namespaced(client, &args.namespace);
        if api.get_opt(name).await.context("cannot look for the ServiceAccount")?.is_some() {
            bail!(
                "Service account with name {name} already exists, use --ignore-cluster to print it all the same"
            );
        }
    }
    output::manifests(&objects(&args.namespace, name), args.output)?;
    Ok(())
}

/// The objects of one remote access account.
fn objects(namespace: &str, name: &str) -> Vec<Value> {
    let labels = json!({ "linkerd.io/extension": "multicluster" });
    let annotations = json!({ "linkerd.io/created-by": format!("linkerd/cli {VERSION}") });
    let meta = |name: &str, namespace: Option<&str>| {
        let mut meta = json!({ "name": name, "labels": labels, "annotations": annotations });
        if let Some(namespace) = namespace {
            meta["namespace"] = namespace.into();
        }
        meta
    };
    let mut token = meta(&format!("{name}-token"), Some(namespace));
    token["annotations"]["kubernetes.io/service-account.name"] = name.into();
    let read = ["list", "get", "watch"];
    let rule = |groups: &[&str], resources: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": read });
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": meta(namespace, None) }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta(name, None),
            "rules": [
                rule(&["apps"], &["replicasets"]),
                rule(&["batch"], &["jobs"]),
                rule(&[""], &["pods", "endpoints", "services"]),
                rule(&["discovery.k8s.io"], &["endpointslices"]),
                rule(&["policy.linkerd.io"], &["servers"]),
                { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": [names::CONFIG] },
                { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
            ],
        }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name, Some(namespace)) }),
        json!({ "apiVersion": "v1", "kind": "Secret", "type": names::TOKEN_TYPE, "metadata": token }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": meta(name, None),
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
        }),
    ]
}
