//! # `mesh multicluster gateways`
//!
//! Job: the table of linked clusters: is the gateway alive, how many mirrors, how quick.
//! May touch: one cluster, reading: Links, their Leases (where the mirror notes what its probe saw), mirrors.
//! Callers: `mc`.

use crate::{args::Globals, check::engine, output};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace, core::v1::Service};
use kube::{Api, Client, api::ListParams};
use mesh_k8s::{annotations, names};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this cluster
    #[arg(long)]
    cluster_name: Option<String>,
    /// How long to wait for an answer
    #[arg(short, long, default_value = "30s", value_parser = engine::duration)]
    wait: Duration,
    /// How to print: a table, or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// One row, as JSON prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    cluster_name: String,
    alive: bool,
    number_of_services: usize,
    latency: u64,
}

/// Runs the verb.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<()> {
    let client = globals.client().await?;
    let read = rows(&client, args.cluster_name.as_deref());
    let rows = tokio::time::timeout(args.wait, read).await.with_context(|| {
        format!("the API did not answer within {:?}; allow more with --wait", args.wait)
    })??;
    let text = match args.output {
        Format::Table => table(&rows),
        Format::Json if rows.is_empty() => "null\n".to_owned(),
        Format::Json => serde_json::to_string_pretty(&rows)? + "\n",
    };
    output::print(&text)?;
    Ok(())
}

/// The rows, by cluster name.
async fn rows(client: &Client, cluster: Option<&str>) -> Result<Vec<Row>> {
    let namespace = extension_namespace(client).await?;
    let links = super::link::all(client, &ListParams::default()).await?;
    let leases = Api::<Lease>::namespaced(client.clone(), &namespace)
        .list(&ListParams::default())
        .await
        .with_context(|| format!("cannot list Leases in {namespace}"))?;
    let leases: BTreeMap<String, Lease> =
        leases.into_iter().filter_map(|l| Some((l.metadata.name.clone()?, l))).collect();
    let mirrors = Api::<Service>::all(client.clone())
        .list(&ListParams::default().labels("mirror.linkerd.io/mirrored-service=true"))
        .await
        .context("cannot list mirror Services")?;
    let mut rows = Vec::new();
    for link in links {
        let problem = super::link::problem(&link);
        let name = link.spec.target_cluster_name;
        if cluster.is_some_and(|wanted| wanted != name) || link.spec.gateway_address.is_empty() {
            continue;
        }
        if let Some(problem) = &problem {
            output::note(format!("{name}: the Link is not valid: {problem}"));
        }
        let lease = leases.get(&names::lease(link.metadata.name.as_deref().unwrap_or(&name)));
        let Some(lease) = lease else {
            if problem.is_some() {
                continue;
            }
            output::note(format!(
                "no mirror serves Link {name}: is Deployment {} running in {namespace}?",
                names::SERVICE_MIRROR
            ));
            continue;
        };
        let note = |key: &str| lease.metadata.annotations.as_ref().and_then(|a| a.get(key));
        if let Some(error) =
            note(annotations::LINK_ERROR).or_else(|| note(annotations::GATEWAY_ERROR))
        {
            output::note(format!("{name}: {error}"));
        }
        let number_of_services = mirrors
            .iter()
            .filter(|s| {
                s.metadata
                    .labels
                    .as_ref()
                    .is_some_and(|l| l.get("mirror.linkerd.io/cluster-name") == Some(&name))
            })
            .count();
        rows.push(Row {
            alive: note(annotations::GATEWAY_ALIVE).is_some_and(|v| v == "true"),
            latency: note(annotations::GATEWAY_LATENCY_MS)
                .and_then(|v| v.parse().ok())
                .unwrap_or(0),
            cluster_name: name,
            number_of_services,
        });
    }
    rows.sort_by(|a, b| a.cluster_name.cmp(&b.cluster_name));
    Ok(rows)
}

/// The namespace that carries the extension's label.
///
/// # Errors
/// When there is none.
pub(super) async fn extension_namespace(client: &Client) -> Result<String> {
    let found = Api::<Namespace>::all(client.clone())
        .list(&ListParams::default().labels("linkerd.io/extension=multicluster"))
        .await
        .context("cannot list namespaces")?;
    match found.items.into_iter().find_map(|n| n.metadata.name) {
        Some(name) => Ok(name),
        None => bail!(
            "namespace with label \"linkerd.io/extension: multicluster\" not found; install by running \
             `mesh multicluster install | kubectl apply -f -`"
        ),
    }
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.cluster_name.len()).max().unwrap_or(0).max(7);
    let mut text =
        format!("{:<width$}  {:<5}  {:>9}  {:>11}  \n", "CLUSTER", "ALIVE", "NUM_SVC", "LATENCY");
    for row in rows {
        let alive = if row.alive { "True" } else { "False" };
        let latency = if row.alive { format!("{}ms", row.latency) } else { "-".to_owned() };
        text += &format!(
            "{:<width$}  {alive:<5}  {:>9}  {latency:>11}  \n",
            row.cluster_name, row.number_of_services
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_linkerds_columns() {
        // proves: CLI-4
        let row = |name: &str, alive| Row {
            cluster_name: name.into(),
            alive,
            number_of_services: 3,
            latency: 2,
        };
        let text = table(&[row("east", true), row("a-long-name", false)]);
        assert_eq!(
            text,
            "CLUSTER      ALIVE    NUM_SVC      LATENCY  \n\
             east         True           3          2ms  \n\
             a-long-name  False          3            -  \n"
        );
        assert!(table(&[]).starts_with("CLUSTER  ALIVE"));
    }
}
