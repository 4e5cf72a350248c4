//! # What checks look at
//!
//! Job: the cluster, the installation's configuration, and how a finding becomes an outcome.
//! May touch: the cluster, reading. Callers: the checks.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use mesh_charts::yaml;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{Args, Outcome};
use crate::args::{Globals, VERSION};

/// What a probe found that is not an error of asking.
pub(crate) enum Finding {
    /// Good.
    Good,
    /// Does not apply.
    Skip,
    /// To be mended, but the mesh works.
    Warn(String),
    /// Broken.
    Bad(String),
}

/// A finding, or the failure to look, as an outcome.
pub(crate) fn outcome(found: Result<Finding>) -> Outcome {
    match found {
        Ok(Finding::Good) => Outcome::Ok,
        Ok(Finding::Skip) => Outcome::Skip,
        Ok(Finding::Warn(text)) => Outcome::Warn(text),
        Ok(Finding::Bad(text)) => Outcome::Fail(text),
        Err(error) => Outcome::Fail(crate::output::sentence(&error)),
    }
}

/// Good if the list of problems is empty.
pub(crate) fn none(intro: &str, problems: Vec<String>) -> Finding {
    match list(intro, problems) {
        None => Finding::Good,
        Some(text) => Finding::Bad(text),
    }
}

/// As `none`, but a problem is a warning.
pub(crate) fn none_or_warn(intro: &str, problems: Vec<String>) -> Finding {
    match list(intro, problems) {
        None => Finding::Good,
        Some(text) => Finding::Warn(text),
    }
}

fn list(intro: &str, problems: Vec<String>) -> Option<String> {
    let lines: Vec<_> = problems.iter().map(|p| format!("\t* {p}")).collect();
    (!lines.is_empty()).then(|| format!("{intro}\n{}", lines.join("\n")))
}

/// The cluster as the checks see it.
pub(crate) struct View {
    globals: Globals,
    client: OnceCell<Client>,
    /// The control plane's namespace.
    pub(crate) control: String,
    /// The namespace of `--namespace`.
    pub(crate) namespace: Option<String>,
    /// The version that the control plane and the proxies should have.
    pub(crate) version: String,
}

impl View {
    pub(crate) fn new(globals: Globals, args: &Args) -> Self {
        let version = args.expected_version.clone().or(args.cli_version_override.clone());
        Self {
            control: globals.linkerd_namespace.clone(),
            namespace: args.namespace.clone(),
            version: version.unwrap_or_else(|| VERSION.to_owned()),
            globals,
            client: OnceCell::new(),
        }
    }

    /// The client, made at the first use.
    pub(crate) async fn client(&self) -> Result<Client> {
        self.client.get_or_try_init(|| self.globals.client()).await.cloned()
    }

    /// The installation's values.
    pub(crate) async fn values(&self) -> Result<Value> {
        let api: Api<ConfigMap> = Api::namespaced(self.client().await?, &self.control);
        let config = api.get("linkerd-config").await.with_context(|| {
            format!(
                "cannot read ConfigMap linkerd-config in {}; install the control plane with `mesh install`, \
                 or name its namespace with --linkerd-namespace",
                self.control
            )
        })?;
        let text = config.data.unwrap_or_default().remove("values").unwrap_or_default();
        let values = yaml::parse(&text).context("the values in linkerd-config cannot be used")?;
        anyhow::ensure!(
            values.is_object(),
            "ConfigMap linkerd-config has no values; install again"
        );
        Ok(values)
    }

    /// Pods by label, in a namespace or in all.
    pub(crate) async fn pods(&self, namespace: Option<&str>, labels: &str) -> Result<Vec<Pod>> {
        let client = self.client().await?;
        let api: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let params = ListParams::default().labels(labels);
        Ok(api.list(&params).await.context("cannot list Pods")?.items)
    }

    /// Which of the names do not exist.
    pub(crate) async fn missing(
        &self,
        (group, version, kind, plural): (&str, &str, &str, &str),
        namespace: Option<&str>,
        names: &[String],
    ) -> Result<Vec<String>> {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let client = self.client().await?;
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let found = api
            .list_metadata(&ListParams::default())
            .await
            .with_context(|| format!("cannot list {plural}"))?;
        let found: BTreeSet<_> = found.items.into_iter().filter_map(|o| o.metadata.name).collect();
        Ok(names.iter().filter(|name| !found.contains(*name)).cloned().collect())
    }
}

/// `namespace/name` of a Pod.
pub(crate) fn pod_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}
