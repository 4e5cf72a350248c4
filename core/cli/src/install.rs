//! # `mesh install`
//!
//! Job: print the manifests of the CRDs or of the control plane. Writes nothing anywhere.
//! May touch: the cluster (reading), the files named. Callers: `lib.rs`; `mc install` for certificates.

mod credentials;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, api::ListParams};
use mesh_charts::{CONTROL_PLANE, CRDS, Release, values, yaml};
use serde_json::{Value, json};

pub(crate) use credentials::self_signed;

use crate::{
    args::{Globals, VERSION},
    block_on,
    output::{self, Format, note},
    proxy_flags::{ProxyFlags, put},
    values::{ValueFlags, unknown},
};

/// Arguments of `mesh install`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the CustomResourceDefinitions only
    #[arg(long)]
    crds: bool,
    /// Render for high availability
    #[arg(long)]
    ha: bool,
    /// Do not look at the cluster
    #[arg(long)]
    ignore_cluster: bool,
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Replicas of each control-plane Deployment
    #[arg(long)]
    controller_replicas: Option<u32>,
    /// Log level of the control plane
    #[arg(long)]
    controller_log_level: Option<String>,
    /// User id of the control plane
    #[arg(long)]
    controller_uid: Option<i64>,
    /// Group id of the control plane
    #[arg(long, allow_negative_numbers = true)]
    controller_gid: Option<i64>,
    /// Domain of the cluster's DNS
    #[arg(long)]
    cluster_domain: Option<String>,
    /// Do not carry HTTP/1 between proxies over HTTP/2
    #[arg(long)]
    disable_h2_upgrade: bool,
    /// Accepted for compatibility: there is no heartbeat
    #[arg(long, hide = true)]
    disable_heartbeat: bool,
    #[command(flatten)]
    identity: credentials::Flags,
    #[command(flatten)]
    proxy: ProxyFlags,
    #[command(flatten)]
    values: ValueFlags,
}

/// Prints the manifests.
pub(crate) fn run(globals: &Globals, args: Box<Args>) -> ExitCode {
    output::exit(block_on(async {
        let client = match args.ignore_cluster {
            true => None,
            false => Some(checked(globals, args.crds).await?),
        };
        let objects = match args.crds {
            true => crds(globals, &args)?,
            false => control_plane(globals, &args, client.as_ref()).await?,
        };
        output::manifests(&objects, args.output)?;
        if args.crds {
            note("Rendering Linkerd CRDs...");
            note("Next, run `mesh install | kubectl apply -f -` to install the control plane.\n");
        }
        Ok(())
    }))
}

fn crds(globals: &Globals, args: &Args) -> Result<Vec<Value>> {
    let mut all = CRDS.defaults()?;
    values::merge(&mut all, &args.values.read()?);
    Ok(CRDS.render(Release::cli(&globals.linkerd_namespace), &all, &self_signed)?)
}

async fn control_plane(
    globals: &Globals,
    args: &Args,
    client: Option<&Client>,
) -> Result<Vec<Value>> {
    let namespace = &globals.linkerd_namespace;
    let defaults = CONTROL_PLANE.defaults()?;
    let mut all = defaults.clone();
    if args.ha {
        values::merge(&mut all, &CONTROL_PLANE.high_availability()?);
    }
    args.lay_on(&mut all);
    let given = args.values.read()?;
    for path in unknown(&defaults, &given) {
        note(format!("The value `{path}` has no effect: the chart does not know it."));
    }
    values::merge(&mut all, &given);
    args.identity.resolve(&mut all, namespace, client).await?;
    let mut objects = CONTROL_PLANE.render(Release::cli(namespace), &all, &self_signed)?;
    objects.push(overrides(namespace, &defaults, &all));
    Ok(objects)
}

impl Args {
    fn lay_on(&self, values: &mut Value) {
        let rows = [
            ("controllerReplicas", self.controller_replicas.map(|v| json!(v))),
            ("controllerLogLevel", self.controller_log_level.as_ref().map(|v| json!(v))),
            ("controllerUID", self.controller_uid.map(|v| json!(v))),
            ("controllerGID", self.controller_gid.map(|v| json!(v))),
            ("clusterDomain", self.cluster_domain.as_ref().map(|v| json!(v))),
            ("enableH2Upgrade", self.disable_h2_upgrade.then(|| json!(false))),
        ];
        for (path, value) in rows {
            if let Some(value) = value {
                put(values, path, value);
            }
        }
        self.identity.lay_on(values);
        self.proxy.apply(values);
    }
}

/// The Secret from which an upgrade learns what this installation changed.
fn overrides(namespace: &str, defaults: &Value, values: &Value) -> Value {
    let changed = values::difference(defaults, values).unwrap_or_else(|| json!({}));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "linkerd-config-overrides",
            "namespace": namespace,
            "annotations": { "linkerd.io/created-by": format!("linkerd/cli {VERSION}") },
            "labels": { "linkerd.io/control-plane-ns": namespace },
        },
        "data": { "linkerd-config-overrides": BASE64_STANDARD.encode(yaml::to_string(&changed)) },
    })
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
             linkerd-config exists. Remove that installation first, or {remedy}"
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
