//! # Changing
//!
//! Job: the path of a new version of an object that exists; it tries again when another writer was faster.
//! May touch: the store. Must not touch: how the new version was made.
//! Callers: `write`.

use serde_json::{Value, json};

use super::{create::stored_version, validate};
use crate::{
    api::{
        admission, decode, finish,
        kinds::{definition, service},
        managed,
        object::{at, deleting, map_of, meta, meta_mut},
        read::{find, present},
        registry::Subresource,
        request::{Call, Verb},
        shared::DEFINITIONS,
        status::{ApiError, FieldError},
    },
    store::Stored,
};

/// Attempts when other writers are faster.
const ATTEMPTS: usize = 6;

/// A new version as a client's request makes it.
pub(super) struct Edited {
    pub(super) value: Value,
    /// The field owners are already those after the change.
    pub(super) owned: bool,
}

impl Edited {
    pub(super) fn plain(value: Value) -> Self {
        Self { value, owned: false }
    }
}

/// Makes a new version from the present one with `edit` and stores it; returns what is stored.
pub(super) async fn change(
    call: &Call,
    edit: &(dyn Fn(&Value) -> Result<Edited, ApiError> + Sync),
) -> Result<Value, ApiError> {
    for _ in 0..ATTEMPTS {
        let old = find(call)?;
        let edited = edit(&present(&call.resource, &old.value))?;
        let new = prepare(call, &old, edited).await?;
        let Some(new) = new else { return Ok(old.value.clone()) };
        if call.dry_run {
            return Ok(new);
        }
        if let Some(stored) = store(call, &old, new)? {
            return Ok(stored);
        }
    }
    let resource = &call.resource;
    Err(ApiError::modified(&resource.plural, &resource.group, &call.name))
}

/// Everything between the edit and the store; `None` if nothing changes.
async fn prepare(call: &Call, old: &Stored, edited: Edited) -> Result<Option<Value>, ApiError> {
    let resource = &call.resource;
    let mut new = decode::normalise(call, edited.value)?;
    check_preconditions(call, &new, old)?;
    keep_server_fields(call, &mut new, &old.value);
    keep_other_parts(call, &mut new, &old.value);
    if resource.table == "/services" {
        service::keep_allocated(&mut new, &old.value);
    }
    if resource.table == DEFINITIONS {
        definition::establish(&mut new);
    }
    let version = stored_version(&new, call);
    map_of(&mut new).insert("apiVersion".into(), version.into());
    // The client owns what it changed, not what webhooks add.
    if !edited.owned {
        let manager = managed::Manager::update(call);
        managed::record_change(&old.value, &mut new, resource.schema.get(), &manager);
    }
    let before = new.clone();
    new = admission::mutate(call, "UPDATE", new, Some(&old.value)).await?;
    if new != before {
        decode::renormalise(call, &mut new);
        keep_server_fields(call, &mut new, &old.value);
    }
    if same_content(&new, &old.value) {
        admission::validate(call, "UPDATE", Some(&new), Some(&old.value)).await?;
        return Ok(None);
    }
    let counts = matches!(call.subresource, None | Some(Subresource::Scale));
    if counts
        && resource.strategy.generation
        && asked_for(call, &new) != asked_for(call, &old.value)
    {
        let generation = at(&old.value, &["metadata", "generation"]).and_then(Value::as_i64);
        meta_mut(&mut new).insert("generation".into(), json!(generation.unwrap_or(0) + 1));
    }
    validate::change(call, &new, &old.value)?;
    admission::validate(call, "UPDATE", Some(&new), Some(&old.value)).await?;
    Ok(Some(new))
}

fn check_preconditions(call: &Call, new: &Value, old: &Stored) -> Result<(), ApiError> {
    let resource = &call.resource;
    let version = meta(new, "resourceVersion");
    if !version.is_empty() && version != "0" && version != old.revision.to_string() {
        return Err(ApiError::modified(&resource.plural, &resource.group, &call.name));
    }
    if version.is_empty() && !resource.builtin() && call.verb == Verb::Update {
        let why = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", &json!(0), why);
        return Err(ApiError::invalid(&resource.kind, &resource.group, &call.name, &[error]));
    }
    let (uid, old_uid) = (meta(new, "uid"), meta(&old.value, "uid"));
    if !uid.is_empty() && uid != old_uid && call.verb != Verb::Update {
        let error = FieldError::invalid("metadata.uid", &json!(uid), "field is immutable");
        return Err(ApiError::invalid(&resource.kind, &resource.group, &call.name, &[error]));
    }
    if !uid.is_empty() && uid != old_uid {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}"
        );
        return Err(ApiError::conflict(&resource.plural, &resource.group, &call.name, &why));
    }
    Ok(())
}

/// Fields that no client can change.
fn keep_server_fields(call: &Call, new: &mut Value, old: &Value) {
    let metadata = meta_mut(new);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "resourceVersion",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    metadata.insert("name".into(), call.name.clone().into());
    // Owners are kept unless the client speaks of them.
    if !metadata.contains_key("managedFields")
        && let Some(managed) = old["metadata"].get("managedFields")
    {
        metadata.insert("managedFields".into(), managed.clone());
    }
}

/// A write of the object leaves its status; a write of the status leaves the rest.
fn keep_other_parts(call: &Call, new: &mut Value, old: &Value) {
    let status_apart = call.resource.strategy.status;
    match call.subresource {
        Some(Subresource::Status) => {
            let status = new.get("status").cloned();
            let mut metadata = new["metadata"].clone();
            if !call.resource.builtin() {
                // A definition's status is its only writable part here; owners are tracked all the same.
                let managed = metadata.get("managedFields").cloned();
                metadata = old["metadata"].clone();
                if let Some(managed) = managed {
                    map_of(&mut metadata).insert("managedFields".into(), managed);
                }
            }
            let mut whole = old.clone();
            let map = map_of(&mut whole);
            map.insert("apiVersion".into(), new["apiVersion"].clone());
            map.insert("metadata".into(), metadata);
            match status {
                Some(status) => map.insert("status".into(), status),
                None => map.remove("status"),
            };
            *new = whole;
        }
        Some(Subresource::Finalize) => {
            let finalizers = at(new, &["spec", "finalizers"]).cloned().unwrap_or(json!([]));
            let mut whole = old.clone();
            whole["spec"]["finalizers"] = finalizers;
            *new = whole;
        }
        // It says where the Pod runs and, in the status, that it does.
        Some(Subresource::Binding) => {}
        _ if status_apart => {
            match old.get("status") {
                Some(status) => map_of(new).insert("status".into(), status.clone()),
                None => map_of(new).remove("status"),
            };
            if call.resource.table == "/namespaces" {
                // Only the finalize subresource ends a namespace.
                new["spec"] = old["spec"].clone();
            }
        }
        _ => {}
    }
}

/// Whether two versions differ in nothing but times of field owners.
fn same_content(new: &Value, old: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        let managed = meta_mut(&mut value).get_mut("managedFields").and_then(Value::as_array_mut);
        for entry in managed.into_iter().flatten() {
            map_of(entry).remove("time");
        }
        value
    };
    strip(new) == strip(old)
}

/// The part of an object whose change counts as a new generation.
fn asked_for(call: &Call, value: &Value) -> Value {
    let mut value = value.clone();
    let map = map_of(&mut value);
    for field in ["metadata", "apiVersion", "kind"] {
        map.remove(field);
    }
    if call.resource.strategy.status {
        map.remove("status");
    }
    value
}

/// Stores the new version, or removes the object if nothing holds it back any more; `None` if another
/// writer was faster.
fn store(call: &Call, old: &Stored, mut new: Value) -> Result<Option<Value>, ApiError> {
    let shared = &call.shared;
    let table = &call.resource.table;
    let _held = (table == "/services").then(|| shared.allocation.lock());
    if table == "/services" && call.subresource.is_none() {
        service::allocate(shared, &mut new, Some(&old.value))?;
    }
    if deleting(&new) && finish::nothing_left(&new) {
        if shared.store.remove(table, &call.key(), old.revision).is_err() {
            return Ok(None);
        }
        finish::after_removal(shared, table);
        return Ok(Some(new));
    }
    let Ok(stored) = shared.store.replace(table, call.key(), old.revision, new) else {
        return Ok(None);
    };
    if table == DEFINITIONS {
        shared.reload_definitions();
    }
    Ok(Some(stored.value.clone()))
}
