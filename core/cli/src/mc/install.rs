//! # `mesh multicluster install`
//!
//! Job: prints the multicluster extension, told what it cannot read: trust anchors, domains, ports of the
//! control plane that is there.
//! May touch: one cluster, reading; the files named. Callers: `mc`.

use crate::{
    args::Globals,
    install::{ANCHORS, self_signed, text},
    output::{self, Format, note, sentence},
    proxy_flags::put,
    values::{ValueFlags, unknown},
};
use anyhow::{Context, Result, bail};
use clap::ArgAction::Set;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use mesh_charts::{MULTICLUSTER, Release, values, yaml};
use mesh_k8s::names;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Install a gateway
    #[arg(long, default_value_t = true, action = Set, num_args = 0..=1, default_missing_value = "true")]
    gateway: bool,
    /// Port of the gateway Service
    #[arg(long)]
    gateway_port: Option<u16>,
    /// Port of the gateway's readiness
    #[arg(long)]
    gateway_probe_port: Option<u16>,
    /// Seconds between probes of the gateway
    #[arg(long)]
    gateway_probe_seconds: Option<u32>,
    /// Type of the gateway Service
    #[arg(long)]
    gateway_service_type: Option<String>,
    /// Node port of the load balancer's health check
    #[arg(long)]
    gateway_healthcheck_nodeport: Option<u16>,
    /// Make the ServiceAccount that other clusters use here
    #[arg(long, default_value_t = true, action = Set, num_args = 0..=1, default_missing_value = "true")]
    service_mirror_credentials: bool,
    /// Render for high availability
    #[arg(long)]
    ha: bool,
    /// How long to wait for a control plane
    #[arg(long, default_value = "5m", value_parser = crate::check::engine::duration)]
    wait: Duration,
    /// Do not look at the cluster: trust anchors and domains come as values
    #[arg(long)]
    ignore_cluster: bool,
    /// Namespace of the extension
    #[arg(long, default_value = names::MULTICLUSTER_NAMESPACE)]
    namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    values: ValueFlags,
}

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<()> {
    let defaults = MULTICLUSTER.defaults()?;
    let mut all = defaults.clone();
    put(&mut all, "linkerdNamespace", json!(globals.linkerd_namespace));
    if !args.ignore_cluster {
        let client = globals.client().await?;
        let installed = control_plane(&client, &globals.linkerd_namespace, args.wait).await?;
        lay_on(&mut all, &installed);
    }
    args.lay_on(&mut all);
    if args.ha {
        values::merge(&mut all, &MULTICLUSTER.high_availability()?);
    }
    let given = args.values.read()?;
    for path in unknown(&defaults, &given) {
        note(format!("The value `{path}` has no effect: the chart does not know it."));
    }
    values::merge(&mut all, &given);
    if args.ignore_cluster && text(&all, ANCHORS).is_empty() {
        bail!(
            "--ignore-cluster leaves the trust anchors unknown: name them with \
             --set-file {ANCHORS}=ca.crt, and identityTrustDomain and clusterDomain with --set where they are not \
             cluster.local"
        );
    }
    let objects = MULTICLUSTER.render(Release::cli(&args.namespace), &all, &self_signed)?;
    output::manifests(&objects, args.output)?;
    Ok(())
}

impl Args {
    fn lay_on(&self, values: &mut Value) {
        put(values, "gateway.enabled", json!(self.gateway));
        put(values, "remoteMirrorServiceAccount", json!(self.service_mirror_credentials));
        let rows = [
            ("gateway.port", self.gateway_port.map(|v| json!(v))),
            ("gateway.probe.port", self.gateway_probe_port.map(|v| json!(v))),
            ("gateway.probe.seconds", self.gateway_probe_seconds.map(|v| json!(v))),
            ("gateway.serviceType", self.gateway_service_type.as_ref().map(|v| json!(v))),
            ("gateway.healthCheckNodePort", self.gateway_healthcheck_nodeport.map(|v| json!(v))),
        ];
        for (path, value) in rows {
            if let Some(value) = value {
                put(values, path, value);
            }
        }
    }
}

/// The control plane's values and anchors.
struct Installed {
    values: Value,
    anchors: String,
}

/// Waits, a second at a time, until the control plane's configuration is there.
async fn control_plane(client: &Client, namespace: &str, wait: Duration) -> Result<Installed> {
    let deadline = Instant::now() + wait;
    let mut said = String::new();
    loop {
        match read(client, namespace).await {
            Ok(installed) => return Ok(installed),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => {
                let reason = sentence(&error);
                if reason != said {
                    note(format!("waiting up to {wait:?} for the control plane: {reason}"));
                    said = reason;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn read(client: &Client, namespace: &str) -> Result<Installed> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let missing = |name: &str| {
        format!("there is no ConfigMap {namespace}/{name}: install the mesh first (`mesh install`)")
    };
    let config = api
        .get_opt(names::CONFIG)
        .await
        .context("cannot reach the Kubernetes API")?
        .with_context(|| missing(names::CONFIG))?;
    let roots =
        api.get_opt(names::TRUST_ROOTS).await?.with_context(|| missing(names::TRUST_ROOTS))?;
    let text = config
        .data
        .and_then(|mut d| d.remove("values"))
        .context("linkerd-config has no `values`")?;
    let values = yaml::parse(&text).context("linkerd-config's `values` cannot be read")?;
    let anchors = roots
        .data
        .and_then(|mut d| d.remove("ca-bundle.crt"))
        .with_context(|| format!("ConfigMap {} has no `ca-bundle.crt`", names::TRUST_ROOTS))?;
    Ok(Installed { values, anchors })
}

/// What this chart shares with the control plane's is taken from there.
fn lay_on(values: &mut Value, installed: &Installed) {
    put(values, ANCHORS, json!(installed.anchors));
    let domain = &installed.values["clusterDomain"];
    let trust = match installed.values["identityTrustDomain"].as_str() {
        None | Some("") => domain.clone(),
        Some(trust) => json!(trust),
    };
    put(values, "identityTrustDomain", trust);
    for key in ["clusterDomain", "clusterNetworks", "disableIPv6", "cniEnabled"] {
        if !installed.values[key].is_null() {
            put(values, key, installed.values[key].clone());
        }
    }
    for key in ["proxy.ports", "proxy.image"] {
        let pointer = format!("/{}", key.replace('.', "/"));
        if let Some(value) = installed.values.pointer(&pointer) {
            put(values, key, value.clone());
        }
    }
}
