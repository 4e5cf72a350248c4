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
pub(crate) type Kind = (&'static str, &'static str, &'static str);

/// The kind as the API is asked for it.
pub(crate) fn resource((api_version, kind, plural): Kind) -> ApiResource {
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
pub(crate) async fn stubs(client: &Client, kind: Kind, labels: &str) -> Result<Vec<Value>> {
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

/// The stub of one object, if it exists. A name that no object may have has none.
///
/// # Errors
/// When the API refuses to say.
pub(crate) async fn existing(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>> {
    if !is_legal(name) {
        return Ok(None);
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource(kind));
    let found = api.get_metadata_opt(name).await;
    let found = found.with_context(|| format!("cannot look for {} {namespace}/{name}", kind.1))?;
    Ok(found.map(|_| stub(kind.0, kind.1, Some(namespace), name)))
}

/// Whether a name can be an object's: a DNS subdomain.
fn is_legal(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// As much of an object as deleting it takes.
pub(crate) fn stub(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut metadata = json!({ "name": name });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_an_object_may_have_are_asked_for() {
        for good in ["a", "cluster-credentials-east", "a.b-c.1"] {
            assert!(is_legal(good), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "../secret", "A", "a/b", "-a", "a-", "a..b", "a b", &long] {
            assert!(!is_legal(bad), "{bad}");
        }
    }
}
