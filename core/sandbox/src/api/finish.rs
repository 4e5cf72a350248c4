//! # Deleting
//!
//! Job: ends objects: at once, or step by step where finalizers, a grace period or dependents hold them back.
//! May touch: the store. Must not touch: dependents; collecting them is a controller's job.
//! Callers: `serve`, and `write` when the last finalizer goes.

use std::{fs, sync::Arc};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    admission,
    object::{at, deleting, list, map_at, map_of, meta, meta_mut, text},
    read::{Selection, find, object_reply, present_json},
    request::Call,
    serve::Reply,
    shared::{DEFINITIONS, Shared},
    status::ApiError,
};
use crate::store::{Key, Stored};

const ATTEMPTS: usize = 6;
/// Finalizer of a deletion that waits for the dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a deletion that lets the dependents live.
pub(crate) const ORPHAN: &str = "orphan";
/// Namespaces that the cluster cannot do without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether nothing holds an object back that is on its way out.
pub(crate) fn nothing_left(object: &Value) -> bool {
    let grace = at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    list(object, &["metadata", "finalizers"]).is_empty()
        && grace.unwrap_or(0) == 0
        && (object["kind"] != "Namespace" || list(object, &["spec", "finalizers"]).is_empty())
}

/// What has to follow the removal of an object.
pub(crate) fn after_removal(shared: &Shared, table: &str) {
    if table == DEFINITIONS {
        shared.reload_definitions();
    }
}

pub(crate) async fn delete(call: &Call, options: Value) -> Result<Reply, ApiError> {
    let resource = &call.resource;
    if resource.table == "/namespaces" && IMMORTAL.contains(&call.name.as_str()) {
        let why = "this namespace may not be deleted";
        return Err(ApiError::forbidden(&resource.plural, &resource.group, &call.name, why));
    }
    for _ in 0..ATTEMPTS {
        let old = find(call)?;
        check_preconditions(call, &options, &old)?;
        admission::validate(call, "DELETE", None, Some(&old.value)).await?;
        if let Some(outcome) = end(call, &call.key(), &old, &options)? {
            return Ok(reply(call, &outcome));
        }
    }
    Err(ApiError::modified(&resource.plural, &resource.group, &call.name))
}

pub(crate) async fn delete_collection(call: &Call, options: Value) -> Result<Reply, ApiError> {
    let selection = Selection::of(call)?;
    let resource = &call.resource;
    let (revision, objects) =
        call.shared.store.list(&resource.table, selection.namespace.as_deref());
    let mut deleted: Vec<Bytes> = Vec::new();
    for object in objects.iter().filter(|o| selection.matches(&o.value)) {
        admission::validate(call, "DELETE", None, Some(&object.value)).await?;
        let key = Key::new(meta(&object.value, "namespace"), meta(&object.value, "name"));
        let mut present = Some(object.clone());
        // An object that changes meanwhile is tried again with its present version.
        for _ in 0..ATTEMPTS {
            let Some(old) = present.take() else { break };
            if end(call, &key, &old, &options)?.is_some() {
                deleted.push(present_json(resource, &old, &call.accept));
                break;
            }
            present = call.shared.store.get(&resource.table, &key);
        }
    }
    let items: Vec<Value> =
        deleted.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect();
    Ok(Reply::ok(json!({
        "kind": resource.list_kind, "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    })))
}

enum Outcome {
    /// On its way out; this is its present state.
    Pending(Value),
    Gone(Arc<Stored>),
}

fn reply(call: &Call, outcome: &Outcome) -> Reply {
    match outcome {
        Outcome::Pending(value) => object_reply(call, 200, value),
        Outcome::Gone(object) => {
            let mut details = json!({
                "name": meta(&object.value, "name"), "kind": call.resource.plural,
                "uid": meta(&object.value, "uid"),
            });
            if !call.resource.group.is_empty() {
                details["group"] = call.resource.group.clone().into();
            }
            Reply::ok(json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            }))
        }
    }
}

fn check_preconditions(call: &Call, options: &Value, old: &Stored) -> Result<(), ApiError> {
    let resource = &call.resource;
    let check = |what: &str, field: &str, ending: &str| {
        let (asked, own) = (text(options, &["preconditions", field]), meta(&old.value, field));
        if asked.is_empty() || asked == own {
            return Ok(());
        }
        let why = format!(
            "the {what} in the precondition ({asked}) does not match the {what} in record ({own}). The object \
             might have been {ending}"
        );
        Err(ApiError::conflict(&resource.kind, &resource.group, &call.name, &why))
    };
    check("UID", "uid", "deleted and then recreated")?;
    check("ResourceVersion", "resourceVersion", "modified")?;
    Ok(())
}

fn policy(options: &Value) -> &str {
    match options["orphanDependents"].as_bool() {
        Some(true) => "Orphan",
        Some(false) => "Background",
        None => text(options, &["propagationPolicy"]),
    }
}

/// Takes the next step of an object's end; `None` if another writer was faster.
fn end(
    call: &Call,
    key: &Key,
    old: &Arc<Stored>,
    options: &Value,
) -> Result<Option<Outcome>, ApiError> {
    let table = &call.resource.table;
    let mut new = old.value.clone();
    let grace = grace(call, options, &new);
    add_finalizer(&mut new, policy(options));
    if table == DEFINITIONS && !call.dry_run {
        remove_instances(&call.shared, &old.value);
    }
    mark(&mut new, grace, call.resource.strategy.generation);
    if table == "/namespaces" {
        map_at(map_of(&mut new), "status").insert("phase".into(), "Terminating".into());
    }
    if call.dry_run {
        return Ok(Some(Outcome::Gone(old.clone())));
    }
    if nothing_left(&new) {
        let removed = call.shared.store.remove(table, key, old.revision);
        let Ok(removed) = removed else { return Ok(None) };
        after_removal(&call.shared, table);
        if table == "/pods" {
            remove_logs(&call.shared, &old.value);
        }
        return Ok(Some(Outcome::Gone(removed)));
    }
    if new == old.value {
        return Ok(Some(Outcome::Pending(new)));
    }
    let stored = call.shared.store.replace(table, key.clone(), old.revision, new);
    Ok(stored.ok().map(|stored| Outcome::Pending(stored.value.clone())))
}

/// Seconds that a Pod has to end; other objects have none.
fn grace(call: &Call, options: &Value, object: &Value) -> i64 {
    if call.resource.table != "/pods" {
        return 0;
    }
    let started = !text(object, &["spec", "nodeName"]).is_empty();
    let over = matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
    if !started || over {
        return 0;
    }
    let asked = options["gracePeriodSeconds"].as_i64();
    let own = at(object, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    asked.or(own).unwrap_or(30).max(0)
}

fn mark(object: &mut Value, grace: i64, counts_generations: bool) {
    let before = at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    if deleting(object) && before.is_some_and(|before| before <= grace) {
        return;
    }
    let first = !deleting(object);
    let when = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
    let metadata = meta_mut(object);
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    metadata
        .insert("deletionTimestamp".into(), when.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    if first && counts_generations {
        let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

fn add_finalizer(object: &mut Value, policy: &str) {
    let wanted = match policy {
        "Foreground" => Some(FOREGROUND),
        "Orphan" => Some(ORPHAN),
        "Background" => None,
        _ => return,
    };
    let metadata = meta_mut(object);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    let Some(finalizers) = finalizers.as_array_mut() else { return };
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    finalizers.extend(wanted.map(Into::into));
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    }
}

/// The objects of a definition go with it.
fn remove_instances(shared: &Shared, definition: &Value) {
    let table = format!(
        "{}/{}",
        text(definition, &["spec", "group"]),
        text(definition, &["spec", "names", "plural"])
    );
    let (_, objects) = shared.store.list(&table, None);
    for object in objects {
        let key = Key::new(meta(&object.value, "namespace"), meta(&object.value, "name"));
        // A newer version is as much without its definition as this one was.
        let mut revision = object.revision;
        while shared.store.remove(&table, &key, revision).is_err() {
            match shared.store.get(&table, &key) {
                Some(newer) => revision = newer.revision,
                None => break,
            }
        }
    }
}

/// Logs end with their Pod.
fn remove_logs(shared: &Shared, pod: &Value) {
    let folder = super::pod_log::folder(&shared.config.pod_logs, pod);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "Pod logs could not be removed");
        }
    });
}
