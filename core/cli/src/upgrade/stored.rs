//! # What is installed
//!
//! Job: an installation as its Secrets and ConfigMaps tell it: what it changed of the defaults, and the
//! credentials with which it runs.
//! May touch: the cluster (reading), the file named. Callers: `upgrade`, `prune`.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use mesh_charts::{values, yaml};
use serde_json::{Value, json};

use crate::{
    install::{ANCHORS, CERTIFICATE, EXTERNAL, KEY, OVERRIDES, SCHEME, text},
    proxy_flags::put,
    values::read_text,
};

const ISSUER: &str = "linkerd-identity-issuer";
const ROOTS: &str = "linkerd-identity-trust-roots";

/// An installation.
pub(crate) struct Stored {
    /// What it changed of its version's defaults.
    pub(crate) overrides: Value,
    /// Anchors, issuer's certificate and key as they are in use; those that are not kept here are missing.
    live: Vec<(&'static str, String)>,
}

impl Stored {
    /// From the cluster.
    ///
    /// # Errors
    /// When the API cannot be asked, or nothing was installed by this command.
    pub(crate) async fn from_cluster(client: &Client, namespace: &str) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let mut objects = Vec::new();
        for name in [OVERRIDES, ISSUER] {
            let found = secrets.get_opt(name).await;
            let found = found.with_context(|| format!("cannot read Secret {namespace}/{name}"))?;
            objects.extend(found.map(|o| with_kind("Secret", &o)).transpose()?);
        }
        let found = configs.get_opt(ROOTS).await;
        let found = found.with_context(|| format!("cannot read ConfigMap {namespace}/{ROOTS}"))?;
        objects.extend(found.map(|o| with_kind("ConfigMap", &o)).transpose()?);
        Self::of(&objects, namespace)
    }

    /// From a file with manifests, or from stdin (`-`).
    ///
    /// # Errors
    /// When it cannot be read, or holds no installation.
    pub(crate) fn from_file(file: &Path, namespace: &str) -> Result<Self> {
        let text = if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
            text
        } else {
            read_text(file)?
        };
        let documents = yaml::parse_all(&text)
            .with_context(|| format!("cannot use the manifests in {}", file.display()))?;
        let expanded =
            documents.into_iter().flat_map(|mut document| match document["items"].take() {
                Value::Array(items) => items,
                _ => vec![document],
            });
        Self::of(&expanded.collect::<Vec<_>>(), namespace)
    }

    fn of(objects: &[Value], namespace: &str) -> Result<Self> {
        let find = |kind: &str, name: &str| {
            let here = |o: &&Value| {
                let meta = &o["metadata"];
                o["kind"] == kind && meta["name"] == name && meta["namespace"] == namespace
            };
            objects.iter().find(here)
        };
        let Some(overrides) = find("Secret", OVERRIDES) else {
            bail!(
                "there is no Secret {namespace}/{OVERRIDES}: nothing was installed there by `mesh install`. Name \
                 the control plane's namespace with --linkerd-namespace, or upgrade with helm what helm installed"
            );
        };
        let unusable = || format!("the Secret {namespace}/{OVERRIDES} cannot be used");
        let overrides = secret_text(overrides, OVERRIDES).with_context(unusable)?;
        let overrides = match yaml::parse(&overrides).with_context(unusable)? {
            Value::Null => json!({}),
            map @ Value::Object(_) => map,
            _ => bail!("{}: it holds no map of values", unusable()),
        };
        let mut live = Vec::new();
        if let Some(issuer) = find("Secret", ISSUER) {
            for (key, path) in [("crt.pem", CERTIFICATE), ("key.pem", KEY)] {
                live.extend(secret_text(issuer, key).map(|pem| (path, pem)));
            }
        }
        let roots = find("ConfigMap", ROOTS).and_then(|o| o["data"]["ca-bundle.crt"].as_str());
        live.extend(roots.map(|pem| (ANCHORS, pem.to_owned())));
        Ok(Self { overrides, live })
    }

    /// The installation's values over the new `base`. Credentials in use win over those of the last rendering: a
    /// rotated issuer is not rolled back.
    pub(crate) fn values(&self, base: Value) -> Value {
        let mut all = base;
        values::merge(&mut all, &self.overrides);
        if text(&all, SCHEME) == EXTERNAL {
            return all;
        }
        for (path, pem) in &self.live {
            if text(&all, path).trim() != pem.trim() {
                put(&mut all, path, json!(pem));
            }
        }
        all
    }
}

fn with_kind(kind: &str, object: &impl serde::Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    value["kind"] = json!(kind);
    Ok(value)
}

/// A Secret's text, from `data` or `stringData`.
fn secret_text(secret: &Value, key: &str) -> Option<String> {
    if let Some(text) = secret["stringData"][key].as_str() {
        return Some(text.to_owned());
    }
    let bytes = BASE64_STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests(overrides: &str) -> Vec<Value> {
        let meta = |name: &str| json!({ "name": name, "namespace": "linkerd" });
        vec![
            json!({ "kind": "Secret", "metadata": meta(OVERRIDES), "stringData": { OVERRIDES: overrides } }),
            json!({
                "kind": "Secret", "metadata": meta(ISSUER),
                "data": {
                    "crt.pem": BASE64_STANDARD.encode("rotated\n"), "key.pem": BASE64_STANDARD.encode("key\n"),
                },
            }),
            json!({ "kind": "ConfigMap", "metadata": meta(ROOTS), "data": { "ca-bundle.crt": "roots" } }),
        ]
    }

    #[test]
    fn the_installations_values_lie_on_the_new_defaults() {
        let text = "controllerReplicas: 2\nidentityTrustAnchorsPEM: |\n  roots\n";
        let stored = Stored::of(&manifests(text), "linkerd").unwrap();
        let values = stored.values(json!({ "controllerReplicas": 1, "new": true }));
        assert_eq!(values["controllerReplicas"], 2);
        assert_eq!(values["new"], true);
        // The same but for the last line's end: the text of the last rendering stays.
        assert_eq!(values["identityTrustAnchorsPEM"], "roots\n");
    }

    #[test]
    fn a_rotated_issuer_is_kept() {
        let text = "identity: {issuer: {tls: {crtPEM: old, keyPEM: old}}}";
        let stored = Stored::of(&manifests(text), "linkerd").unwrap();
        let values = stored.values(json!({}));
        assert_eq!(values["identity"]["issuer"]["tls"]["crtPEM"], "rotated\n");
        assert_eq!(values["identity"]["issuer"]["tls"]["keyPEM"], "key\n");
    }

    #[test]
    fn an_external_issuer_is_left_where_it_is() {
        let text = "identity: {issuer: {scheme: kubernetes.io/tls}}";
        let stored = Stored::of(&manifests(text), "linkerd").unwrap();
        assert_eq!(stored.values(json!({})), yaml::parse(text).unwrap());
    }

    #[test]
    fn what_was_not_installed_here_is_told() {
        let error = Stored::of(&manifests("{}"), "other").err().unwrap().to_string();
        assert!(error.contains("no Secret other/linkerd-config-overrides"), "{error}");
        assert!(error.contains("helm"), "{error}");
        let error = Stored::of(&manifests("- 1"), "linkerd").err().unwrap().to_string();
        assert!(error.contains("no map of values"), "{error}");
    }
}
