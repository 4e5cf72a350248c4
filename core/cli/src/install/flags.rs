//! # Flags of the control plane
//!
//! Job: what `install` and `upgrade` take alike, and the values that it stands for.
//! May touch: the files named. Callers: `install`, `upgrade`.

use anyhow::Result;
use mesh_charts::{CONTROL_PLANE, CRDS, Release, values, yaml};
use serde_json::{Value, json};

use super::{credentials::Files, self_signed};
use crate::{
    args::VERSION,
    output::{Format, note},
    proxy_flags::{ProxyFlags, put},
    values::{ValueFlags, unknown},
};
use base64::{Engine, prelude::BASE64_STANDARD};

/// Key of the Secret from which an upgrade learns what an installation changed; also the Secret's name.
pub(crate) const OVERRIDES: &str = "linkerd-config-overrides";

/// Flags about the control plane.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Print the CustomResourceDefinitions only
    #[arg(long)]
    pub(crate) crds: bool,
    /// Render for high availability
    #[arg(long)]
    ha: bool,
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
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
    /// Do not carry HTTP/1 between proxies over HTTP/2
    #[arg(long)]
    disable_h2_upgrade: bool,
    /// The CNI plugin sets the redirect rules, not a container of each Pod
    #[arg(long)]
    linkerd_cni_enabled: bool,
    /// Accepted for compatibility: there is no heartbeat
    #[arg(long, hide = true)]
    disable_heartbeat: bool,
    /// Accepted for compatibility: EndpointSlices are always used
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    enable_endpoint_slices: Option<bool>,
    #[command(flatten)]
    pub(crate) identity: Files,
    #[command(flatten)]
    proxy: ProxyFlags,
    #[command(flatten)]
    values: ValueFlags,
}

impl Common {
    /// The objects of the chart of CRDs.
    pub(crate) fn crds(&self, namespace: &str) -> Result<Vec<Value>> {
        let mut all = CRDS.defaults()?;
        values::merge(&mut all, &self.values.read()?);
        Ok(CRDS.render(Release::cli(namespace), &all, &self_signed)?)
    }

    /// The values to begin with: the chart's defaults, for high availability if asked.
    pub(crate) fn base(&self) -> Result<Value> {
        let mut all = CONTROL_PLANE.defaults()?;
        if self.ha {
            values::merge(&mut all, &CONTROL_PLANE.high_availability()?);
        }
        Ok(all)
    }

    /// Lays flags, files and settings on the values, in Helm's order.
    pub(crate) fn lay_on(&self, values: &mut Value) -> Result<()> {
        let rows = [
            ("controllerReplicas", self.controller_replicas.map(|v| json!(v))),
            ("controllerLogLevel", self.controller_log_level.as_ref().map(|v| json!(v))),
            ("controllerUID", self.controller_uid.map(|v| json!(v))),
            ("controllerGID", self.controller_gid.map(|v| json!(v))),
            ("enableH2Upgrade", self.disable_h2_upgrade.then(|| json!(false))),
            ("cniEnabled", self.linkerd_cni_enabled.then(|| json!(true))),
        ];
        for (path, value) in rows {
            if let Some(value) = value {
                put(values, path, value);
            }
        }
        self.identity.lay_on(values);
        self.proxy.apply(values);
        let given = self.values.read()?;
        for path in unknown(&CONTROL_PLANE.defaults()?, &given) {
            note(format!("The value `{path}` has no effect: the chart does not know it."));
        }
        values::merge(values, &given);
        self.identity.read(values)
    }
}

/// All objects of a control plane with these values, and the Secret for the next upgrade.
pub(crate) fn render(namespace: &str, values: &Value) -> Result<Vec<Value>> {
    let mut objects = CONTROL_PLANE.render(Release::cli(namespace), values, &self_signed)?;
    objects.push(overrides(namespace, &CONTROL_PLANE.defaults()?, values));
    Ok(objects)
}

/// The Secret from which an upgrade learns what this installation changed.
fn overrides(namespace: &str, defaults: &Value, values: &Value) -> Value {
    let changed = values::difference(defaults, values).unwrap_or_else(|| json!({}));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": OVERRIDES,
            "namespace": namespace,
            "annotations": { "linkerd.io/created-by": format!("linkerd/cli {VERSION}") },
            "labels": { "linkerd.io/control-plane-ns": namespace },
        },
        "data": { OVERRIDES: BASE64_STANDARD.encode(yaml::to_string(&changed)) },
    })
}
