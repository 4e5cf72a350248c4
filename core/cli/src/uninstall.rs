//! # `mesh uninstall`
//!
//! Job: print what removes the control plane, for `kubectl delete -f -`; refuse while something still needs it.
//! May touch: the cluster, reading. Callers: `lib.rs`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client, api::ListParams};

use crate::{
    args::Globals,
    block_on,
    check::{pod_name, proxy_of},
    listing::{Kind, stubs},
    output::{self, Format},
};

/// What lies outside of the control plane's namespace, and the namespace with all in it.
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

/// Arguments of `mesh uninstall`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the manifests although extensions or meshed Pods remain
    #[arg(short, long)]
    force: bool,
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Prints the stubs.
pub(crate) fn run(globals: &Globals, args: &Args) -> ExitCode {
    output::exit(block_on(async {
        let client = globals.client().await?;
        let namespace = &globals.linkerd_namespace;
        if !args.force {
            unneeded(&client, namespace).await?;
        }
        let mut found = Vec::new();
        for kind in KINDS {
            let label = format!("linkerd.io/control-plane-ns={namespace}");
            found.extend(stubs(&client, kind, &label).await?);
        }
        if found.is_empty() {
            bail!("No resources found to uninstall");
        }
        output::manifests(&found, args.output)?;
        Ok(())
    }))
}

/// Extensions and meshed Pods would be left without a control plane.
async fn unneeded(client: &Client, namespace: &str) -> Result<()> {
    let labelled = |label: &str| ListParams::default().labels(label);
    let extensions =
        Api::<Namespace>::all(client.clone()).list(&labelled("linkerd.io/extension")).await;
    let extensions = extensions.context("cannot list Namespaces")?;
    let names =
        extensions.iter().filter_map(|n| n.metadata.labels.as_ref()?.get("linkerd.io/extension"));
    let mut lines: Vec<_> = names.map(|name| format!("\t* {name}")).collect();
    if !lines.is_empty() {
        bail!(
            "Please uninstall the following extensions before uninstalling the control-plane, or pass --force:\n{}",
            lines.join("\n")
        );
    }
    let pods = Api::<Pod>::all(client.clone());
    let pods = pods.list(&labelled(&format!("linkerd.io/control-plane-ns={namespace}"))).await;
    let pods = pods.context("cannot list Pods")?;
    let elsewhere = |pod: &&Pod| pod.metadata.namespace.as_deref() != Some(namespace);
    let meshed = pods.iter().filter(elsewhere).filter(|pod| proxy_of(pod).is_some());
    lines.extend(meshed.map(|pod| format!("\t* {}", pod_name(pod))));
    if !lines.is_empty() {
        bail!(
            "Please uninject the following pods before uninstalling the control-plane, or pass --force:\n{}",
            lines.join("\n")
        );
    }
    Ok(())
}
