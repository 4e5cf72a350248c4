//! # `mesh inject` and `mesh uninject`
//!
//! Job: add to manifests what gives them a sidecar (or the sidecar itself), or take it away again.
//! Manifests to stdout, what was done to each to stderr.
//! May touch: the files and addresses named, stdin, linkerd-config. Callers: `lib.rs`.

mod fetch;
mod input;
mod transform;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use mesh_charts::{CONTROL_PLANE, yaml};
use serde_json::{Value, json};

use crate::{
    args::Globals,
    block_on,
    check::engine,
    output::{self, Format, Glyph, note},
    proxy_flags::{ProxyFlags, lookup, put},
};
use transform::{Done, Outcome, Plan};

/// Arguments of `mesh inject`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders or addresses with manifests; - for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Add the sidecar itself instead of annotations
    #[arg(long)]
    manual: bool,
    /// Use the defaults of this version instead of the cluster's configuration
    #[arg(long)]
    ignore_cluster: bool,
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Make the sidecar route by the Host header
    #[arg(long)]
    ingress: bool,
    /// Ports, ranges and port names whose protocol is not detected
    #[arg(long)]
    opaque_ports: Option<String>,
    /// Ports that take meshed clients only
    #[arg(long)]
    require_identity_on_inbound_ports: Option<String>,
    /// Make the sidecar an init container that restarts
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    native_sidecar: Option<bool>,
    /// Seconds that the sidecar stays after the Pod is told to end
    #[arg(long)]
    wait_before_exit_seconds: Option<u64>,
    /// Time after which half-closed connections end
    #[arg(long, value_parser = engine::duration)]
    close_wait_timeout: Option<std::time::Duration>,
    /// Ask for the debug container, which this version does not add
    #[arg(long)]
    enable_debug_sidecar: bool,
    /// Accepted for compatibility, without effect
    #[arg(long, hide = true)]
    disable_identity: bool,
    #[command(flatten)]
    proxy: ProxyFlags,
}

/// Arguments of `mesh uninject`.
#[derive(Debug, clap::Args)]
pub struct UninjectArgs {
    /// Files, folders or addresses with manifests; - for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Injects.
pub(crate) fn run(globals: &Globals, args: Box<Args>) -> ExitCode {
    output::exit(block_on(async {
        let objects = input::read(&args.files).await?;
        let values = values(globals, &args).await?;
        let plan = Plan {
            annotations: args.annotations(&values),
            opaque_ports: args.opaque_ports.clone(),
            manual: args.manual,
            values,
            control_namespace: globals.linkerd_namespace.clone(),
        };
        let mut done = Vec::new();
        for object in objects {
            done.push(plan.inject(object)?);
        }
        let out: Vec<_> = done.iter().map(|d| d.object.clone()).collect();
        output::manifests(&out, args.output)?;
        report(&done, globals.verbose);
        Ok(())
    }))
}

/// Takes injections away.
pub(crate) fn uninject(args: UninjectArgs) -> ExitCode {
    output::exit(block_on(async {
        let objects = input::read(&args.files).await?;
        let done: Vec<_> = objects.into_iter().map(transform::uninject).collect();
        let out: Vec<_> = done.iter().map(|d| d.object.clone()).collect();
        output::manifests(&out, args.output)?;
        report(&done, false);
        Ok(())
    }))
}

impl Args {
    /// The annotations that the flags ask for: those that differ from what the cluster does anyway.
    fn annotations(&self, values: &Value) -> Vec<(String, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let config = |key: &str| format!("config.linkerd.io/{key}");
        let mode = if self.ingress { "ingress" } else { "enabled" };
        let mut found = vec![("linkerd.io/inject".to_owned(), mode.to_owned())];
        for given in self.proxy.given() {
            if lookup(values, given.path) != Some(&given.value) {
                found.push((config(given.annotation), text(&given.value)));
            }
        }
        let rows = [
            ("opaque-ports", self.opaque_ports.clone()),
            (
                "proxy-require-identity-inbound-ports",
                self.require_identity_on_inbound_ports.clone(),
            ),
            ("proxy-enable-native-sidecar", self.native_sidecar.map(|v| v.to_string())),
            ("enable-debug-sidecar", self.enable_debug_sidecar.then(|| "true".to_owned())),
            ("close-wait-timeout", self.close_wait_timeout.map(|t| format!("{}s", t.as_secs()))),
        ];
        for (key, value) in rows {
            found.extend(value.map(|value| (config(key), value)));
        }
        if let Some(seconds) = self.wait_before_exit_seconds {
            let key = "config.alpha.linkerd.io/proxy-wait-before-exit-seconds";
            found.push((key.to_owned(), seconds.to_string()));
        }
        found
    }
}

/// The installation's values, or the defaults of this version.
async fn values(globals: &Globals, args: &Args) -> Result<Value> {
    if args.ignore_cluster {
        let mut values = CONTROL_PLANE.defaults()?;
        values["identityTrustDomain"] = values["clusterDomain"].clone();
        if args.manual {
            note(
                "Without the cluster the trust anchors are unknown: the sidecar expects a ConfigMap \
                 linkerd-identity-trust-roots in its own namespace.",
            );
        }
        return Ok(values);
    }
    let remedy = "pass --ignore-cluster to use the defaults of this version";
    let client = globals.client().await.context(remedy)?;
    let namespace = &globals.linkerd_namespace;
    let config: ConfigMap =
        Api::namespaced(client, namespace).get("linkerd-config").await.with_context(|| {
            format!("cannot read ConfigMap linkerd-config in {namespace}; {remedy}")
        })?;
    let text = config.data.unwrap_or_default().remove("values").unwrap_or_default();
    let mut values = yaml::parse(&text).context("the values of linkerd-config cannot be used")?;
    if !values.is_object() {
        bail!("ConfigMap linkerd-config in {namespace} has no values; {remedy}");
    }
    // A control plane of another version may lack what the sidecar's template needs.
    let mut whole = CONTROL_PLANE.defaults()?;
    mesh_charts::values::merge(&mut whole, &values);
    values = whole;
    if values["identityTrustDomain"].as_str().unwrap_or_default().is_empty() {
        let domain = values["clusterDomain"].clone();
        put(&mut values, "identityTrustDomain", domain);
    }
    if values["proxy"].is_null() {
        put(&mut values, "proxy", json!({}));
    }
    Ok(values)
}

/// Tells what was done, on stderr.
fn report(done: &[Done], verbose: bool) {
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    note("");
    let mut told = false;
    for warning in done.iter().flat_map(|d| &d.warnings) {
        note(format!("{} {warning}", Glyph::Warning.show(colour)));
        told = true;
    }
    if done.iter().all(|d| d.outcome == Outcome::Skipped) {
        note(format!("{} no supported objects found", Glyph::Warning.show(colour)));
        told = true;
    } else if verbose && !told {
        note(format!("{} nothing stands against it", Glyph::Good.show(colour)));
        told = true;
    }
    if told {
        note("");
    }
    for object in done {
        note(format!("{} {:?} {}", object.kind, object.name, object.outcome.word()));
    }
    note("");
}
