//! # `mesh multicluster link-gen`
//!
//! Job: reads the exporting cluster, and prints credentials and a Link for the importing one.
//! May touch: the exporting cluster, reading; the operator's kubeconfig. Callers: `mc`, `link`.

mod credentials;
mod gateway;

use crate::{
    args::{Globals, VERSION},
    output::{self, Format},
};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use mesh_k8s::{annotations, names, selector};
use serde_json::{Value, json};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name for this cluster in the importing one: suffix of its mirrors
    #[arg(long, default_value = "")]
    cluster_name: String,
    /// Namespace of the extension, here and there
    #[arg(long, default_value = names::MULTICLUSTER_NAMESPACE)]
    namespace: String,
    /// URL under which the importing cluster's Pods reach this cluster's API server
    #[arg(long, default_value = "")]
    api_server_address: String,
    /// ServiceAccount here that the importing cluster will use
    #[arg(long, default_value = names::REMOTE_ACCESS)]
    service_account_name: String,
    /// Whether there is a gateway
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    gateway: bool,
    /// Name of the gateway Service
    #[arg(long, default_value = names::GATEWAY)]
    gateway_name: String,
    /// Namespace of the gateway Service
    #[arg(long, default_value = names::MULTICLUSTER_NAMESPACE)]
    gateway_namespace: String,
    /// Comma list of gateway addresses, instead of the Service's
    #[arg(long, default_value = "")]
    gateway_addresses: String,
    /// Gateway port, instead of the Service's
    #[arg(long, default_value_t = 0)]
    gateway_port: u16,
    /// Services to mirror through the gateway
    #[arg(short = 'l', long, default_value = "mirror.linkerd.io/exported=true")]
    selector: String,
    /// Services to mirror Pod to Pod
    #[arg(long, default_value = "mirror.linkerd.io/exported=remote-discovery")]
    remote_discovery_selector: String,
    /// Members of federated Services
    #[arg(long, default_value = "mirror.linkerd.io/federated=member")]
    federated_service_selector: String,
    /// Annotations that mirrors do not get: keys, or prefix/*
    #[arg(long, value_delimiter = ',')]
    excluded_annotations: Vec<String>,
    /// Labels that mirrors do not get: keys, or prefix/*
    #[arg(long, value_delimiter = ',')]
    excluded_labels: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    pub(super) fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn format(&self) -> Format {
        self.output
    }
}

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<()> {
    let printed = objects(globals, &args).await?;
    output::manifests(&printed, args.output)?;
    Ok(())
}

/// Value of the created-by annotation.
pub(super) fn created_by() -> String {
    format!("linkerd/cli {VERSION}")
}

/// The exporting cluster's own names, from its `linkerd-config`.
pub(super) struct Domains {
    pub(super) cluster: String,
    pub(super) trust: String,
}

/// The two Secrets and the Link.
///
/// # Errors
/// When something that the Link needs is missing here; the sentence says what.
pub(super) async fn objects(globals: &Globals, args: &Args) -> Result<Vec<Value>> {
    if args.cluster_name.is_empty() {
        bail!("you need to specify cluster name: pass --cluster-name");
    }
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // A mirror is named `<svc>-<cluster>`, of which Kubernetes allows 63 characters.
    if args.cluster_name.len() > 61
        || !args.cluster_name.chars().all(valid)
        || args.cluster_name.starts_with('-')
        || args.cluster_name.ends_with('-')
    {
        bail!(
            "cluster name `{}` cannot be a suffix of Service names: use at most 61 lower-case letters, digits and `-`",
            args.cluster_name
        );
    }
    let client = globals.client().await?;
    let domains = domains(&client, &globals.linkerd_namespace).await?;
    let kubeconfig = credentials::kubeconfig(globals, &client, args).await?;
    let link = link(globals, &client, args, &domains).await?;
    let secret = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": names::CREDENTIALS_TYPE,
            "metadata": { "name": names::credentials(&args.cluster_name), "namespace": namespace },
            "data": { names::CREDENTIALS_KEY: kubeconfig },
        })
    };
    let mut watched = secret(&globals.linkerd_namespace);
    watched["metadata"]["labels"] =
        json!({ "multicluster.linkerd.io/cluster-name": args.cluster_name });
    watched["metadata"]["annotations"] = json!({ annotations::TRUST_DOMAIN: domains.trust, annotations::CLUSTER_DOMAIN: domains.cluster });
    Ok(vec![secret(&args.namespace), watched, link])
}

async fn link(globals: &Globals, client: &Client, args: &Args, domains: &Domains) -> Result<Value> {
    let mut spec = json!({
        "targetClusterName": args.cluster_name,
        "targetClusterDomain": domains.cluster,
        "targetClusterLinkerdNamespace": globals.linkerd_namespace,
        "clusterCredentialsSecret": names::credentials(&args.cluster_name),
    });
    let wanted = parse_selector("--selector", &args.selector)?;
    if args.gateway {
        let gateway = gateway::read(client, args).await?;
        for (key, value) in [
            ("gatewayAddress", gateway.addresses.clone()),
            ("gatewayPort", gateway.port.to_string()),
            ("gatewayIdentity", gateway.identity.clone()),
        ] {
            spec[key] = value.into();
        }
        spec["probeSpec"] = json!({ "path": gateway.probe_path, "port": gateway.probe_port.to_string(), "period": gateway.probe_period });
        spec["selector"] = wanted;
        gateway.warn_if_not_covered(&args.selector);
    } else {
        spec["probeSpec"] = json!({});
    }
    spec["remoteDiscoverySelector"] =
        parse_selector("--remote-discovery-selector", &args.remote_discovery_selector)?;
    spec["federatedServiceSelector"] =
        parse_selector("--federated-service-selector", &args.federated_service_selector)?;
    for (key, list) in [
        ("excludedAnnotations", &args.excluded_annotations),
        ("excludedLabels", &args.excluded_labels),
    ] {
        if !list.is_empty() {
            spec[key] = json!(list);
        }
    }
    Ok(json!({
        "apiVersion": "multicluster.linkerd.io/v1alpha3", "kind": "Link",
        "metadata": {
            "name": args.cluster_name, "namespace": args.namespace,
            "annotations": { annotations::CREATED_BY: created_by() },
        },
        "spec": spec,
    }))
}

async fn domains(client: &Client, namespace: &str) -> Result<Domains> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config = api
        .get_opt(names::CONFIG)
        .await
        .with_context(|| format!("cannot read ConfigMap {namespace}/{}", names::CONFIG))?
        .with_context(|| {
            format!("there is no ConfigMap {namespace}/{}: install the mesh there first (`mesh install`)", names::CONFIG)
        })?;
    let values = config.data.and_then(|mut d| d.remove("values")).unwrap_or_default();
    let values =
        mesh_charts::yaml::parse(&values).context("linkerd-config's `values` cannot be read")?;
    let text = |key: &str| values[key].as_str().filter(|v| !v.is_empty()).map(str::to_owned);
    let cluster = text("clusterDomain").unwrap_or_else(|| "cluster.local".to_owned());
    Ok(Domains { trust: text("identityTrustDomain").unwrap_or_else(|| cluster.clone()), cluster })
}

fn parse_selector(flag: &str, text: &str) -> Result<Value> {
    let parsed = selector::parse(text)
        .map_err(|e| anyhow::anyhow!("{flag} `{text}` is not a label selector: {e}"))?;
    Ok(serde_json::to_value(parsed)?)
}
