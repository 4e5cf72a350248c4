//! # Writing objects
//!
//! Job: one-call writes (server-side apply, create, delete) with a deadline and plain errors.
//! May touch: the Kubernetes API. Must not touch: what objects mean.
//! Callers: controllers that write back, the mirror, the demo.

use crate::{Error, within};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, time::Duration};

/// How long one write may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Server-side apply of a whole object under a field manager, taking fields over by force.
///
/// # Errors
/// The API server's refusal, a transport error, or no answer in 10 s.
pub async fn apply<K>(api: &Api<K>, name: &str, object: &K, manager: &str) -> Result<K, Error>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let params = PatchParams::apply(manager).force();
    within(DEADLINE, api.patch(name, &params, &Patch::Apply(object))).await
}

/// Server-side apply of an object of any kind, as manifests carry it. The plural is the lower-case
/// kind with the usual English ending unless `plural` says otherwise.
///
/// # Errors
/// As [`apply`]; also if the object lacks apiVersion, kind or name.
pub async fn apply_any(
    client: &Client,
    object: &DynamicObject,
    plural: Option<&str>,
    manager: &str,
) -> Result<DynamicObject, Error> {
    let types = object.types.as_ref().ok_or_else(|| incomplete("apiVersion or kind"))?;
    let kind = GroupVersionKind::try_from(types).map_err(|_| incomplete("a valid apiVersion"))?;
    let resource = match plural {
        Some(plural) => ApiResource::from_gvk_with_plural(&kind, plural),
        None => ApiResource::from_gvk(&kind),
    };
    let name = object.metadata.name.as_deref().ok_or_else(|| incomplete("metadata.name"))?;
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply(manager).force();
    within(DEADLINE, api.patch(name, &params, &Patch::Apply(object))).await
}

/// Creates an object; `Ok(None)` if one of that name exists.
///
/// # Errors
/// The API server's refusal, a transport error, or no answer in 10 s.
pub async fn create<K>(api: &Api<K>, object: &K, manager: &str) -> Result<Option<K>, Error>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let params = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
    match within(DEADLINE, api.create(&params, object)).await {
        Ok(made) => Ok(Some(made)),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes an object; one that is gone already counts as deleted.
///
/// # Errors
/// The API server's refusal, a transport error, or no answer in 10 s.
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    match within(DEADLINE, api.delete(name, &DeleteParams::default())).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn incomplete(what: &str) -> Error {
    Error::Api(kube::Error::Service(format!("the object lacks {what}").into()))
}
