//! # Removal lists
//!
//! Job: the stub manifests that `uninstall` and `unlink` print, for `kubectl delete -f -`.
//! May touch: one cluster, reading. Callers: the removing verbs.

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::{Value, json};

/// A kind that is looked for: apiVersion, kind, plural.
pub(super) type Kind = (&'static str, &'static str, &'static str);

/// The kind as the API is asked for it.
pub(super) fn resource((api_version, kind, plural): Kind) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Stubs of all objects of a kind with these labels, in all namespaces. A kind that is not served has none.
///
/// # Errors
/// When the API refuses to list them.
pub(super) async fn stubs(client: &Client, kind: Kind, labels: &str) -> Result<Vec<Value>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
    let list = match api.list(&ListParams::default().labels(labels)).await {
        Ok(list) => list,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", kind.2)),
    };
    Ok(list
        .items
        .iter()
        .filter_map(|object| {
            let name = object.metadata.name.as_deref()?;
            Some(stub(kind.0, kind.1, object.metadata.namespace.as_deref(), name))
        })
        .collect())
}

/// As much of an object as deleting it takes.
pub(super) fn stub(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut metadata = json!({ "name": name });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata })
}
