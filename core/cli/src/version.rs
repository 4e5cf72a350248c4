//! # `mesh version`
//!
//! Job: the versions of this command, of the control plane and of the proxies.
//! May touch: the linkerd-config ConfigMap, Pods. Callers: `lib.rs`.

use std::{collections::BTreeMap, fmt::Write, process::ExitCode};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, Client, api::ListParams};

use crate::{
    args::{Globals, VERSION},
    block_on, output,
};

/// Arguments of `mesh version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the client version only
    #[arg(long)]
    client: bool,
    /// Print the version numbers only
    #[arg(long)]
    short: bool,
    /// Print the versions of the data-plane proxies too
    #[arg(long)]
    proxy: bool,
    /// Namespace whose proxies are counted; all when not given
    #[arg(short, long)]
    namespace: Option<String>,
}

/// Prints the versions. An unreachable server is shown as `unavailable`, not as an error.
pub(crate) fn run(globals: &Globals, args: Args) -> ExitCode {
    output::exit(block_on(async {
        let mut text = String::new();
        line(&mut text, args.short, "Client version", VERSION);
        if !args.client {
            let client = globals.client().await;
            let server = match &client {
                Ok(client) => server(client, &globals.linkerd_namespace).await,
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            if let Err(error) = &server {
                tracing::debug!("server version: {error:#}");
            }
            line(
                &mut text,
                args.short,
                "Server version",
                server.as_deref().unwrap_or("unavailable"),
            );
            if args.proxy {
                let counted = match &client {
                    Ok(client) => proxies(client, args.namespace.as_deref()).await.ok(),
                    Err(_) => None,
                };
                text.push_str(&proxy_lines(counted.as_ref()));
            }
        }
        Ok(output::print(&text)?)
    }))
}

fn line(text: &mut String, short: bool, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = if short { writeln!(text, "{value}") } else { writeln!(text, "{name}: {value}") };
}

fn proxy_lines(counted: Option<&BTreeMap<String, usize>>) -> String {
    match counted {
        Some(counted) if !counted.is_empty() => {
            let lines = counted.iter().map(|(v, n)| format!("\t{v} ({n} pods)\n"));
            format!("Proxy versions:\n{}", lines.collect::<String>())
        }
        _ => "Proxy versions: unavailable\n".to_owned(),
    }
}

/// The control plane's version, from its configuration.
pub(crate) async fn server(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let config: ConfigMap =
        Api::namespaced(client.clone(), namespace).get("linkerd-config").await?;
    let values = config.data.unwrap_or_default().remove("values").unwrap_or_default();
    let values = mesh_charts::yaml::parse(&values)?;
    let version = values.get("linkerdVersion").and_then(|v| v.as_str()).unwrap_or_default();
    anyhow::ensure!(!version.is_empty(), "ConfigMap linkerd-config has no linkerdVersion");
    Ok(version.to_owned())
}

/// How many running Pods have each proxy version.
pub(crate) async fn proxies(
    client: &Client,
    namespace: Option<&str>,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let pods: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut counted = BTreeMap::new();
    for pod in pods.list(&ListParams::default().labels("linkerd.io/control-plane-ns")).await? {
        let version =
            pod.metadata.annotations.unwrap_or_default().remove("linkerd.io/proxy-version");
        if let Some(version) = version {
            *counted.entry(version).or_default() += 1;
        }
    }
    Ok(counted)
}
