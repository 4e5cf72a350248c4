//! # The multicluster checks themselves
//!
//! Job: one question each, answered with the cause and the remedy.
//! May touch: this cluster and the exporting ones, reading. Callers: `mc check`.

use crate::{check::Outcome, output::sentence};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Secret, Service},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mesh_k8s::{annotations, link::Link, names};
use mesh_pki::TrustBundle;
use std::{collections::BTreeSet, time::Duration};

const MIRRORED: &str = "mirror.linkerd.io/mirrored-service=true";
const CLUSTER: &str = "mirror.linkerd.io/cluster-name";

/// What the checks look at.
pub(super) struct View {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) timeout: Duration,
}

/// An exporting cluster, as its Link reaches it.
struct Remote {
    client: Client,
    /// Where its API is, for people.
    address: String,
}

/// Collects a line a problem.
fn verdict(problems: Vec<String>, good: Vec<String>) -> Outcome {
    if problems.is_empty() {
        Outcome::OkWith(good.iter().map(|name| format!("\t* {name}\n")).collect())
    } else {
        Outcome::Fail(problems.join("\n"))
    }
}

fn failed(error: &anyhow::Error) -> Outcome {
    Outcome::Fail(sentence(error))
}

impl View {
    async fn links(&self) -> Result<Vec<Link>> {
        super::super::link::all(&self.client, &ListParams::default()).await
    }

    /// Runs `ask` for every Link; without Links the check does not apply.
    async fn each_link<F>(&self, ask: impl Fn(Link) -> F) -> Outcome
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let links = match self.links().await {
            Ok(links) if links.is_empty() => return Outcome::Skip,
            Ok(links) => links,
            Err(error) => return failed(&error),
        };
        let (mut problems, mut good) = (Vec::new(), Vec::new());
        for link in links {
            let cluster = link.spec.target_cluster_name.clone();
            match tokio::time::timeout(self.timeout, ask(link)).await {
                Ok(Ok(())) => good.push(cluster),
                Ok(Err(problem)) => problems.push(problem),
                Err(_) => problems.push(format!(
                    "* {cluster}: no answer within {:?}; allow more with --timeout",
                    self.timeout
                )),
            }
        }
        verdict(problems, good)
    }

    pub(super) async fn crd_exists(&self) -> Outcome {
        match Api::<Link>::all(self.client.clone()).list(&ListParams::default().limit(1)).await {
            Ok(_) => Outcome::Ok,
            Err(error) => Outcome::Fail(format!(
                "multicluster.linkerd.io/Link CRD is missing: {}; install the extension with \
                 `mesh multicluster install | kubectl apply -f -`",
                mesh_cluster::describe(&error)
            )),
        }
    }

    pub(super) async fn links_are_valid(&self) -> Outcome {
        self.each_link(|link| async move {
            let name = link.metadata.name.clone().unwrap_or_default();
            match super::super::link::problem(&link) {
                Some(problem) => Err(format!("* {name}: {problem}")),
                None => Ok(()),
            }
        })
        .await
    }

    pub(super) async fn versions_match(&self) -> Outcome {
        let outcome = self
            .each_link(|link| async move {
                let name = &link.spec.target_cluster_name;
                let by =
                    link.metadata.annotations.as_ref().and_then(|a| a.get(annotations::CREATED_BY));
                match by {
                    Some(by) if *by == crate::mc::link_gen::created_by() => Ok(()),
                    Some(by) if by.starts_with("linkerd/cli ") => Err(format!(
                        "* {name}: CLI version is {} but Link version is {}",
                        crate::args::VERSION,
                        &by[12..]
                    )),
                    _ => Err(format!("* {name}: unable to determine version")),
                }
            })
            .await;
        match outcome {
            Outcome::Fail(text) => Outcome::Warn(text),
            other => other,
        }
    }

    pub(super) async fn access(&self) -> Outcome {
        self.each_link(|link| async move {
            let cluster = &link.spec.target_cluster_name;
            let Remote { client: remote, address } =
                self.remote(&link).await.map_err(|e| format!("* {}", sentence(&e)))?;
            remote.apiserver_version().await.map_err(|error| match error {
                kube::Error::Api(status) if status.code == 401 => format!(
                    "* the credentials of cluster [{cluster}] are refused ({}): print new ones with `mesh multicluster link`",
                    status.message
                ),
                error => format!("* failed to connect to API for cluster: [{cluster}] at {address}: {}", cause(&error)),
            })?;
            for verb in ["get", "list", "watch"] {
                if !may(&remote, verb).await.map_err(|e| refused(cluster, &e))? {
                    return Err(format!("* missing service permission [{verb}] for cluster [{cluster}]"));
                }
            }
            Ok(())
        })
        .await
    }

    /// The exporting cluster with the Link's credentials.
    async fn remote(&self, link: &Link) -> Result<Remote> {
        let namespace = link.metadata.namespace.as_deref().unwrap_or(&self.namespace);
        let name = &link.spec.cluster_credentials_secret;
        let which = format!("secret: [{namespace}/{name}]");
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret =
            secrets.get_opt(name).await.with_context(|| which.clone())?.with_context(|| {
                format!("{which}: not found; print it with `mesh multicluster link`")
            })?;
        let data = secret.data.and_then(|mut d| d.remove(names::CREDENTIALS_KEY));
        let text =
            data.with_context(|| format!("{which}: it has no `{}`", names::CREDENTIALS_KEY))?;
        let text = String::from_utf8(text.0).with_context(|| format!("{which}: not text"))?;
        let file =
            Kubeconfig::from_yaml(&text).with_context(|| format!("{which}: no kubeconfig"))?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("{which}: the kubeconfig cannot be used"))?;
        config.connect_timeout = Some(self.timeout);
        config.read_timeout = Some(self.timeout);
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        Ok(Remote { client: Client::try_from(config)?, address })
    }

    pub(super) async fn anchors(&self) -> Outcome {
        let outcome = self
            .each_link(|link| async move {
                let cluster = &link.spec.target_cluster_name;
                let remote = self.remote(&link).await.map_err(|e| {
                    format!("* {cluster}: unable to fetch anchors: {}", sentence(&e))
                })?;
                let unable = |e: anyhow::Error| {
                    format!("* {cluster}: unable to fetch anchors: {}", sentence(&e))
                };
                let there = anchors(&remote.client, &link.spec.target_cluster_linkerd_namespace)
                    .await
                    .map_err(unable)?;
                let here =
                    anchors(&self.client, &self.control_namespace().await).await.map_err(unable)?;
                let parse = |text: &str| TrustBundle::from_pem(text.as_bytes());
                match (parse(&here), parse(&there)) {
                    (Ok(here), Ok(there)) if here == there => Ok(()),
                    (Ok(_), Ok(_)) => Err(format!("* {cluster}")),
                    _ => Err(format!("* {cluster}: cannot parse trust anchors")),
                }
            })
            .await;
        let remedy = "Install both clusters with the same --identity-trust-anchors-file";
        match outcome {
            // A line that gives a reason: what could not be read is not known to differ.
            Outcome::Fail(text) if text.lines().all(|line| line.contains(':')) => {
                Outcome::Fail(format!("Problematic clusters:\n{text}"))
            }
            Outcome::Fail(text) => {
                Outcome::Fail(format!("Problematic clusters:\n{text}\n{remedy}"))
            }
            other => other,
        }
    }

    /// The control plane's namespace, as the extension's namespace does not tell it.
    async fn control_namespace(&self) -> String {
        let labelled = ListParams::default().labels("linkerd.io/is-control-plane=true");
        let found = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone())
            .list(&labelled)
            .await;
        let first = found.ok().and_then(|list| list.items.into_iter().next()?.metadata.name);
        first.unwrap_or_else(|| names::CONTROL_NAMESPACE.to_owned())
    }

    pub(super) async fn permissions(&self) -> Outcome {
        self.each_link(|link| async move {
            let cluster = &link.spec.target_cluster_name;
            let namespace = link.metadata.namespace.as_deref().unwrap_or(&self.namespace);
            let name = crate::mc::unlink::role(cluster);
            let remedy = "apply what `mesh multicluster link` prints";
            let role = Api::<Role>::namespaced(self.client.clone(), namespace).get_opt(&name).await;
            if role.map_err(|e| refused(cluster, &e))?.is_none() {
                return Err(format!("missing Roles: {namespace}/{name}; {remedy}"));
            }
            let binding =
                Api::<RoleBinding>::namespaced(self.client.clone(), namespace).get_opt(&name).await;
            if binding.map_err(|e| refused(cluster, &e))?.is_none() {
                return Err(format!("missing RoleBindings: {namespace}/{name}; {remedy}"));
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn mirror_runs(&self) -> Outcome {
        match self.links().await {
            Ok(links) if links.is_empty() => return Outcome::Skip,
            Ok(_) => {}
            Err(error) => return failed(&error),
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let full = format!("{}/{}", self.namespace, names::SERVICE_MIRROR);
        match api.get_opt(names::SERVICE_MIRROR).await {
            Ok(Some(found)) => {
                let wanted = found.spec.and_then(|s| s.replicas).unwrap_or(1);
                if wanted == 0 {
                    return Outcome::Fail(format!(
                        "* service mirror controller is not available: {full} is scaled to 0; \
                         scale it up with `kubectl -n {} scale deploy/{} --replicas=1`",
                        self.namespace,
                        names::SERVICE_MIRROR
                    ));
                }
                match found.status.and_then(|s| s.available_replicas).unwrap_or(0) {
                    0 => Outcome::Fail(format!(
                        "* service mirror controller is not available: {full}"
                    )),
                    _ => Outcome::Ok,
                }
            }
            Ok(None) => Outcome::Fail(format!(
                "* no service mirror controller deployment: {full} does not exist"
            )),
            Err(error) => failed(&error.into()),
        }
    }

    pub(super) async fn gateways(&self) -> Outcome {
        self.each_link(|link| async move {
            let cluster = &link.spec.target_cluster_name;
            let probed = link.spec.probe_spec.as_ref().is_some_and(|p| !p.path.is_empty());
            if link.spec.gateway_address.is_empty() || !probed {
                return Ok(());
            }
            let namespace = link.metadata.namespace.as_deref().unwrap_or(&self.namespace);
            let name = names::lease(link.metadata.name.as_deref().unwrap_or(cluster));
            let lease = Api::<Lease>::namespaced(self.client.clone(), namespace)
                .get_opt(&name)
                .await
                .map_err(|e| refused(cluster, &e))?
                .ok_or_else(|| format!("failed to get the service-mirror component Lease {namespace}/{name}: no mirror serves this Link"))?;
            let note = |key: &str| lease.metadata.annotations.as_ref().and_then(|a| a.get(key)).cloned();
            let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
            if let Some(error) = note(annotations::LINK_ERROR) {
                return Err(format!("* {cluster}: {error}"));
            }
            if holder.is_empty() {
                return Err(format!("* {cluster}: no mirror holds Lease {namespace}/{name}"));
            }
            match note(annotations::GATEWAY_ALIVE).as_deref() {
                Some("true") => Ok(()),
                _ => {
                    let why = note(annotations::GATEWAY_ERROR).unwrap_or_else(|| "it has not answered yet".to_owned());
                    Err(format!("liveness checks failed for {cluster}: gateway {}: {why}", link.spec.gateway_address))
                }
            }
        })
        .await
    }

    async fn mirrors(&self) -> Result<Vec<Service>> {
        let api: Api<Service> = Api::all(self.client.clone());
        Ok(api
            .list(&ListParams::default().labels(MIRRORED))
            .await
            .context("cannot list mirror Services")?
            .items)
    }

    pub(super) async fn endpoints(&self) -> Outcome {
        let found = async {
            let mirrors = self.mirrors().await?;
            let api: Api<Endpoints> = Api::all(self.client.clone());
            let filled: BTreeSet<(Option<String>, Option<String>)> = api
                .list(&ListParams::default())
                .await
                .context("cannot list Endpoints")?
                .into_iter()
                .filter(|e| e.subsets.as_ref().is_some_and(|s| !s.is_empty()))
                .map(|e| (e.metadata.namespace, e.metadata.name))
                .collect();
            Ok::<_, anyhow::Error>((mirrors, filled))
        };
        let (mirrors, filled) = match found.await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        if mirrors.is_empty() {
            return Outcome::Skip;
        }
        let mut problems = Vec::new();
        for mirror in mirrors {
            let labels = mirror.metadata.labels.unwrap_or_default();
            let notes = mirror.metadata.annotations.unwrap_or_default();
            let elsewhere = labels.contains_key("mirror.linkerd.io/mirrored-gateway")
                || labels.contains_key("multicluster.linkerd.io/remote-discovery")
                || notes.contains_key(annotations::REMOTE_DISCOVERY)
                || notes.contains_key(annotations::LOCAL_DISCOVERY);
            let key = (mirror.metadata.namespace, mirror.metadata.name);
            if elsewhere || filled.contains(&key) {
                continue;
            }
            let (namespace, name) = (key.0.unwrap_or_default(), key.1.unwrap_or_default());
            let cluster = labels.get(CLUSTER).map_or("", String::as_str);
            problems.push(format!("{name}.{namespace} mirrored from cluster [{cluster}]"));
        }
        match problems.is_empty() {
            true => Outcome::Ok,
            false => Outcome::Fail(format!(
                "Some mirror services do not have endpoints:\n{}",
                problems.join("\n")
            )),
        }
    }

    pub(super) async fn orphans(&self) -> Outcome {
        let found = async { Ok::<_, anyhow::Error>((self.mirrors().await?, self.links().await?)) };
        let (mirrors, links) = match found.await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        let known: BTreeSet<&str> =
            links.iter().map(|l| l.spec.target_cluster_name.as_str()).collect();
        let mut problems = Vec::new();
        for mirror in &mirrors {
            let cluster = mirror.metadata.labels.as_ref().and_then(|l| l.get(CLUSTER));
            if cluster.is_some_and(|c| !known.contains(c.as_str())) {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                let full =
                    format!("{}.{}", text(&mirror.metadata.name), text(&mirror.metadata.namespace));
                problems.push(format!("mirror service {full} is not part of any Link"));
            }
        }
        match (problems.is_empty(), mirrors.is_empty()) {
            (_, true) => Outcome::Skip,
            (true, false) => Outcome::Ok,
            (false, false) => Outcome::Warn(problems.join("\n")),
        }
    }
}

async fn anchors(client: &Client, namespace: &str) -> Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config = api
        .get_opt(names::CONFIG)
        .await
        .map_err(|error| anyhow::Error::msg(cause(&error)))?
        .with_context(|| format!("there is no ConfigMap {namespace}/{}", names::CONFIG))?;
    let text = config.data.and_then(|mut d| d.remove("values")).unwrap_or_default();
    let values = mesh_charts::yaml::parse(&text).context("linkerd-config cannot be read")?;
    match values["identityTrustAnchorsPEM"].as_str() {
        Some(pem) if !pem.is_empty() => Ok(pem.to_owned()),
        _ => bail!("linkerd-config names no trust anchors"),
    }
}

async fn may(client: &Client, verb: &str) -> Result<bool, kube::Error> {
    let question = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                resource: Some("services".into()),
                verb: Some(verb.into()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &question).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

fn refused(cluster: &str, error: &kube::Error) -> String {
    format!("* {cluster}: {}", cause(error))
}

/// The innermost reason: outer ones only say that a request failed.
fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut error: &dyn std::error::Error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}
