//! # `mesh install`
//!
//! Job: print the manifests of the CRDs or of the control plane. Writes nothing anywhere.
//! May touch: the cluster (reading), the files named. Callers: `lib.rs`; `upgrade`; `mc install` for certificates.

mod credentials;
mod flags;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, api::ListParams};
use mesh_charts::{CRDS, Release};
use serde_json::{Value, json};

pub(crate) use credentials::{
    ANCHORS, CERTIFICATE, EXTERNAL, KEY, SCHEME, self_signed, text, verify,
};
pub(crate) use flags::{Common, OVERRIDES, render};

use crate::{
    args::Globals,
    block_on,
    output::{self, note},
    proxy_flags::put,
};

/// Arguments of `mesh install`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not look at the cluster
    #[arg(long)]
    ignore_cluster: bool,
    /// Domain of the cluster's DNS
    #[arg(long)]
    cluster_domain: Option<String>,
    #[command(flatten)]
    identity: credentials::Flags,
    #[command(flatten)]
    common: Common,
}

/// Prints the manifests.
pub(crate) fn run(globals: &Globals, args: Box<Args>) -> ExitCode {
    output::exit(block_on(async {
        let client = match args.ignore_cluster {
            true => None,
            false => Some(checked(globals, args.common.crds).await?),
        };
        let objects = match args.common.crds {
            true => args.common.crds(&globals.linkerd_namespace)?,
            false => control_plane(globals, &args, client.as_ref()).await?,
        };
        output::manifests(&objects, args.common.output)?;
        if args.common.crds {
            note("Rendering Linkerd CRDs...");
            note("Next, run `mesh install | kubectl apply -f -` to install the control plane.\n");
        }
        Ok(())
    }))
}

async fn control_plane(
    globals: &Globals,
    args: &Args,
    client: Option<&Client>,
) -> Result<Vec<Value>> {
    let namespace = &globals.linkerd_namespace;
    let mut all = args.common.base()?;
    if let Some(domain) = &args.cluster_domain {
        put(&mut all, "clusterDomain", json!(domain));
    }
    args.identity.lay_on(&mut all);
    args.common.lay_on(&mut all)?;
    credentials::resolve(&mut all, namespace, client).await?;
    render(namespace, &all)
}

/// A client for a cluster that is ready for the installation.
async fn checked(globals: &Globals, crds: bool) -> Result<Client> {
    let namespace = &globals.linkerd_namespace;
    let client = globals.client().await?;
    let remedy = "pass --ignore-cluster to render without looking at it";
    client
        .apiserver_version()
        .await
        .with_context(|| format!("cannot reach the Kubernetes API; {remedy}"))?;
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config = configs
        .get_opt("linkerd-config")
        .await
        .with_context(|| format!("cannot look for an installation in {namespace}; {remedy}"))?;
    if config.is_some() {
        bail!(
            "the control plane is installed in the namespace {namespace} already: ConfigMap \
             linkerd-config exists. Change it with `mesh upgrade`, or remove it with `mesh uninstall`; or {remedy}"
        );
    }
    if !crds {
        let missing = missing_crds(&client).await.with_context(|| remedy.to_owned())?;
        if !missing.is_empty() {
            bail!("Linkerd CRDs must be installed first. Run mesh install with the --crds flag.");
        }
    }
    Ok(client)
}

/// Names of the CRDs of the mesh that the cluster does not have.
pub(crate) async fn missing_crds(client: &Client) -> Result<Vec<String>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let present = api
        .list_metadata(&ListParams::default())
        .await
        .context("cannot list the CustomResourceDefinitions")?;
    let present: Vec<_> = present.iter().filter_map(|c| c.metadata.name.as_deref()).collect();
    let wanted = CRDS.render(Release::cli("linkerd"), &CRDS.defaults()?, &self_signed)?;
    let names = wanted.iter().filter_map(|c| c["metadata"]["name"].as_str());
    Ok(names.filter(|name| !present.contains(name)).map(ToOwned::to_owned).collect())
}
