//! # Credentials for an importing cluster
//!
//! Job: a kubeconfig of one context, with the remote access account's token, that Pods elsewhere can use.
//! May touch: the operator's kubeconfig, the account's token Secret. Callers: `link_gen`.

use super::Args;
use crate::args::Globals;
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client, api::ListParams, config::Kubeconfig};
use mesh_k8s::{annotations, names};
use serde_json::json;

/// The kubeconfig as a Secret's data: base64 of YAML.
pub(super) async fn kubeconfig(globals: &Globals, client: &Client, args: &Args) -> Result<String> {
    let file = globals.kubeconfig()?;
    let name = globals
        .context
        .clone()
        .or_else(|| file.current_context.clone())
        .context("the kubeconfig has no current context: name one with --context")?;
    let context = file
        .contexts
        .iter()
        .find(|c| c.name == name)
        .and_then(|c| c.context.clone())
        .with_context(|| format!("the kubeconfig has no context `{name}`"))?;
    let (server, authority) = server(&file, &context.cluster, &args.api_server_address)?;
    let token = token(client, &args.namespace, &args.service_account_name).await?;
    let account = &args.service_account_name;
    let mut cluster = json!({ "server": server });
    if let Some(data) = authority {
        cluster["certificate-authority-data"] = data.into();
    }
    let mut used = json!({ "cluster": context.cluster, "user": account });
    if let Some(namespace) = &context.namespace {
        used["namespace"] = namespace.as_str().into();
    }
    let made = json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": name,
        "clusters": [{ "name": context.cluster, "cluster": cluster }],
        "users": [{ "name": account, "user": { "token": token } }],
        "contexts": [{ "name": name, "context": used }],
    });
    Ok(BASE64_STANDARD.encode(mesh_charts::yaml::to_string(&made)))
}

/// URL and CA of the API server. A CA file is read, because its path means nothing elsewhere.
fn server(file: &Kubeconfig, name: &str, instead: &str) -> Result<(String, Option<String>)> {
    let cluster = file
        .clusters
        .iter()
        .find(|c| c.name == name)
        .and_then(|c| c.cluster.clone())
        .with_context(|| format!("the kubeconfig has no cluster `{name}`"))?;
    let url = match instead {
        "" => cluster
            .server
            .with_context(|| format!("cluster `{name}` of the kubeconfig has no server"))?,
        instead => instead.to_owned(),
    };
    let parsed: http::Uri =
        url.parse().with_context(|| format!("the API server's URL `{url}` cannot be read"))?;
    let host = parsed.host().map(|h| h.trim_matches(['[', ']'])).unwrap_or_default();
    if parsed.scheme().is_none() || host.is_empty() {
        bail!(
            "the API server's URL `{url}` needs scheme and host, like https://192.0.2.7:6443; see --api-server-address"
        );
    }
    if ["127.0.0.1", "::1", "localhost"].contains(&host) {
        bail!(
            "the API server's URL {url} is this machine's own loopback, which Pods of another cluster cannot reach: \
             pass the address that they can reach with --api-server-address"
        );
    }
    let authority = match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => Some(data),
        (None, Some(path)) => {
            let pem = std::fs::read(&path)
                .with_context(|| format!("cannot read the CA file {path} of the kubeconfig"))?;
            Some(BASE64_STANDARD.encode(pem))
        }
        (None, None) => None,
    };
    Ok((url, authority))
}

async fn token(client: &Client, namespace: &str, account: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    if accounts.get_opt(account).await.context("cannot look for the ServiceAccount")?.is_none() {
        bail!(
            "there is no ServiceAccount {namespace}/{account}: install the extension there first \
             (`mesh multicluster install`), or make the account with `mesh multicluster allow`"
        );
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let of_type = ListParams::default().fields(&format!("type={}", names::TOKEN_TYPE));
    let list = secrets.list(&of_type).await.context("cannot list token Secrets")?;
    let mine = list
        .into_iter()
        .find(|s| {
            let notes = s.metadata.annotations.as_ref();
            notes
                .and_then(|a| a.get(annotations::SERVICE_ACCOUNT_NAME))
                .is_some_and(|v| v == account)
        })
        .with_context(|| format!("could not find service account token secret for {account}"))?;
    let name = mine.metadata.name.unwrap_or_default();
    let bytes = mine.data.and_then(|mut d| d.remove("token")).with_context(|| {
        format!("Secret {namespace}/{name} has no `token` yet: try again in a moment")
    })?;
    String::from_utf8(bytes.0)
        .with_context(|| format!("the token in Secret {namespace}/{name} is not text"))
}
