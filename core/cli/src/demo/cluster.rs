//! # A cluster as the demo uses it
//!
//! Job: applies what verbs print, waits for what should come, over the real API.
//! May touch: one cluster's API. Must not touch: the sandbox's insides: a real cluster would do.
//! Callers: `demo`.

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Endpoints, Pod, Service},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery,
    runtime::{conditions, wait::await_condition},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Where the demo's own objects live.
pub(crate) const NAMESPACE: &str = "demo";

/// A cluster that is up.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) client: Client,
}

impl Cluster {
    /// # Errors
    /// When the kubeconfig cannot be read or used.
    pub(crate) async fn open(name: &str, kubeconfig: &Path) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("cannot use {}", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self {
            name: name.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            client: Client::try_from(config)?,
        })
    }

    /// Flags that make a verb talk to this cluster.
    pub(crate) fn flags(&self) -> [String; 2] {
        ["--kubeconfig".to_owned(), self.kubeconfig.display().to_string()]
    }

    /// Applies objects, one JSON object a line, in their order; gives their number.
    ///
    /// # Errors
    /// Names the object that was refused.
    pub(crate) async fn apply(&self, lines: &str) -> Result<usize> {
        let mut kinds = HashMap::new();
        let mut count = 0;
        for line in lines.lines().filter(|l| !l.trim().is_empty()) {
            let object: DynamicObject =
                serde_json::from_str(line).context("a verb printed no JSON object")?;
            self.apply_one(object, &mut kinds).await?;
            count += 1;
        }
        Ok(count)
    }

    async fn apply_one(
        &self,
        object: DynamicObject,
        kinds: &mut HashMap<String, (discovery::ApiResource, discovery::ApiCapabilities)>,
    ) -> Result<()> {
        let types = object.types.clone().context("an object without apiVersion and kind")?;
        let name = object.metadata.name.clone().context("an object without a name")?;
        let what = format!("{} {name} in {}", types.kind, self.name);
        let key = format!("{}/{}", types.api_version, types.kind);
        if !kinds.contains_key(&key) {
            let gvk = GroupVersionKind::try_from(&types)?;
            let known =
                discovery::pinned_kind(&self.client, &gvk).await.with_context(|| what.clone())?;
            kinds.insert(key.clone(), known);
        }
        let (resource, capabilities) = &kinds[&key];
        let api: Api<DynamicObject> = match (&capabilities.scope, &object.metadata.namespace) {
            (discovery::Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, resource)
            }
            (discovery::Scope::Namespaced, None) => {
                Api::default_namespaced_with(self.client.clone(), resource)
            }
            (discovery::Scope::Cluster, _) => Api::all_with(self.client.clone(), resource),
        };
        let params = PatchParams::apply("mesh-demo").force();
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("cannot apply {what}"))?;
        if types.kind == "CustomResourceDefinition" {
            let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            within(&what, await_condition(crds, &name, conditions::is_crd_established())).await?;
        }
        Ok(())
    }

    /// Waits until a Deployment has all its replicas.
    ///
    /// # Errors
    /// When it has not within a minute; says what its Pods wait for.
    pub(crate) async fn rolled_out(&self, namespace: &str, name: &str) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let ready = |d: Option<&Deployment>| {
            let wanted = d.and_then(|d| d.spec.as_ref()?.replicas).unwrap_or(1);
            d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(wanted)
        };
        let what = format!("Deployment {namespace}/{name} in {}", self.name);
        let waited = within(&what, await_condition(api, name, ready)).await;
        match waited {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.why_not_ready(namespace).await)),
        }
    }

    async fn why_not_ready(&self, namespace: &str) -> String {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let Ok(list) = pods.list(&ListParams::default()).await else {
            return "its Pods cannot be listed".to_owned();
        };
        let mut text = String::from("its namespace's Pods:");
        for pod in list {
            let name = pod.metadata.name.unwrap_or_default();
            let status = pod.status.unwrap_or_default();
            text += &format!(" {name} {}", status.phase.unwrap_or_default());
            for container in status
                .init_container_statuses
                .into_iter()
                .chain(status.container_statuses)
                .flatten()
            {
                let waiting = container.state.and_then(|s| s.waiting).map(|w| {
                    format!("{} {}", w.reason.unwrap_or_default(), w.message.unwrap_or_default())
                });
                text += &format!(
                    " [{} ready={} {}]",
                    container.name,
                    container.ready,
                    waiting.unwrap_or_default()
                );
            }
            text += ";";
        }
        text
    }

    /// The first running Pod with this `app` label.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        app: &str,
    ) -> Result<(String, std::net::IpAddr)> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let list = pods.list(&ListParams::default().labels(&format!("app={app}"))).await?;
        list.items
            .into_iter()
            .find_map(|pod| {
                let ip = pod.status?.pod_ip?.parse().ok()?;
                Some((pod.metadata.name?, ip))
            })
            .with_context(|| format!("no Pod of {app} in {namespace} of {}", self.name))
    }

    /// Sets or (with `None`) removes a label of a Service.
    ///
    /// # Errors
    /// The API's own.
    pub(crate) async fn label_service(
        &self,
        name: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<()> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = serde_json::json!({ "metadata": { "labels": { key: value } } });
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until a mirror's Endpoints have a ready address; gives the first.
    ///
    /// # Errors
    /// When there is none within a minute.
    pub(crate) async fn mirrored(&self, name: &str) -> Result<String> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), NAMESPACE);
        let address = |e: &Endpoints| {
            let subset = e.subsets.as_ref()?.first()?;
            let port = subset.ports.as_ref()?.first()?.port;
            Some(format!("{}:{port}", subset.addresses.as_ref()?.first()?.ip))
        };
        let there = move |e: Option<&Endpoints>| e.and_then(address).is_some();
        let found = within(
            &format!("Endpoints {name} in {}", self.name),
            await_condition(api, name, there),
        )
        .await?;
        found.as_ref().and_then(address).context("the endpoints went away again")
    }

    /// Waits until a Service is gone.
    ///
    /// # Errors
    /// When it is still there after a minute.
    pub(crate) async fn gone(&self, name: &str) -> Result<()> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let absent = |s: Option<&Service>| s.is_none();
        within(
            &format!("removal of Service {name} in {}", self.name),
            await_condition(api, name, absent),
        )
        .await?;
        Ok(())
    }
}

async fn within<T, E>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let waited = tokio::time::timeout(LIMIT, work).await;
    let done = waited.with_context(|| format!("waited {} s for {what}", LIMIT.as_secs()))?;
    done.with_context(|| format!("while waiting for {what}"))
}
