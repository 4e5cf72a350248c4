//! # Creating
//!
//! Job: the path of a new object.
//! May touch: the store. Must not touch: existing objects.
//! Callers: `write`.

use serde_json::{Value, json};

use super::validate;
use crate::{
    api::{
        admission, decode,
        kinds::{account, definition, generate_name, new_uid, service},
        managed,
        object::{deleting, map_of, meta, meta_mut, now, text},
        read::object_reply,
        request::Call,
        serve::Reply,
        shared::DEFINITIONS,
        status::ApiError,
    },
    store::Key,
};

/// Fresh names tried when a generated one is taken.
const GENERATED_ATTEMPTS: usize = 8;

pub(crate) async fn create(call: &Call, body: Value) -> Result<Reply, ApiError> {
    let manager = managed::Manager::update(call);
    let object = create_as(call, body, manager, None).await?;
    Ok(object_reply(call, 201, &object))
}

/// The creation that an apply to a missing object is.
pub(super) async fn apply_new(call: &Call, config: Value) -> Result<Reply, ApiError> {
    let manager = managed::Manager::apply(call, call.query.get("fieldManager"));
    let config = decode::applied(call, config)?;
    let owned = managed::owned(&config, call.resource.schema.get());
    let object = create_as(call, config, manager, Some(owned)).await?;
    Ok(object_reply(call, 201, &object))
}

async fn create_as(
    call: &Call,
    body: Value,
    manager: managed::Manager,
    owned: Option<managed::FieldSet>,
) -> Result<Value, ApiError> {
    let resource = &call.resource;
    if !meta(&body, "resourceVersion").is_empty() && owned.is_none() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let mut object = decode::normalise(call, body)?;
    check_namespace(call, &object)?;
    prepare(call, &mut object);
    // The client owns what it sent and what that stands for, not what admission adds.
    managed::record_new(&mut object, resource.schema.get(), &manager, owned, resource.builtin());
    (resource.strategy.admit)(&call.shared, &mut object)?;
    object = admission::mutate(call, "CREATE", object, None).await?;
    decode::renormalise(call, &mut object);
    let metadata = meta_mut(&mut object);
    metadata.insert("uid".into(), new_uid().into());
    metadata.insert("creationTimestamp".into(), now().into());
    let generated = meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty();
    for _ in 0..GENERATED_ATTEMPTS {
        if generated {
            let name = generate_name(meta(&object, "generateName"));
            meta_mut(&mut object).insert("name".into(), name.into());
        }
        validate::new_object(call, &object)?;
        admission::validate(call, "CREATE", Some(&object), None).await?;
        match store(call, object.clone())? {
            Some(stored) => return Ok(stored),
            None if generated => {}
            None => break,
        }
    }
    Err(ApiError::already_exists(&resource.plural, &resource.group, meta(&object, "name")))
}

/// What the server alone decides about a new object.
fn prepare(call: &Call, object: &mut Value) {
    let strategy = call.resource.strategy;
    if strategy.status {
        map_of(object).remove("status");
        (strategy.default)(map_of(object));
    }
    if call.resource.table == DEFINITIONS {
        definition::establish(object);
    }
    let metadata = meta_mut(object);
    for field in [
        "resourceVersion",
        "uid",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ] {
        metadata.remove(field);
    }
    if strategy.generation {
        metadata.insert("generation".into(), json!(1));
    } else {
        metadata.remove("generation");
    }
}

fn check_namespace(call: &Call, object: &Value) -> Result<(), ApiError> {
    if !call.resource.namespaced {
        return Ok(());
    }
    if call.namespace.is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    let namespace = call.shared.store.get("/namespaces", &Key::new("", &call.namespace));
    let Some(namespace) = namespace else {
        return Err(ApiError::not_found("namespaces", "", &call.namespace));
    };
    if !deleting(&namespace.value) {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        call.namespace
    );
    let resource = &call.resource;
    let mut error =
        ApiError::forbidden(&resource.plural, &resource.group, meta(object, "name"), &why);
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {} is being terminated", call.namespace),
        }]);
    }
    Err(error)
}

/// Stores a new object; `None` if the name is taken.
fn store(call: &Call, mut object: Value) -> Result<Option<Value>, ApiError> {
    let shared = &call.shared;
    let resource = &call.resource;
    let key = Key::new(&call.namespace, meta(&object, "name"));
    let _held = (resource.table == "/services").then(|| shared.allocation.lock());
    if shared.store.get(&resource.table, &key).is_some() {
        return Ok(None);
    }
    if resource.table == "/services" {
        service::allocate(shared, &mut object, None)?;
    }
    let version = stored_version(&object, call);
    map_of(&mut object).insert("apiVersion".into(), version.into());
    if call.dry_run {
        return Ok(Some(object));
    }
    let Some(stored) = shared.store.create(&resource.table, key, object) else { return Ok(None) };
    match resource.table.as_str() {
        DEFINITIONS => shared.reload_definitions(),
        "/serviceaccounts" => account::fill_waiting(shared, &stored.value),
        _ => {}
    }
    Ok(Some(stored.value.clone()))
}

/// The apiVersion that an object is kept under.
pub(super) fn stored_version(object: &Value, call: &Call) -> String {
    let resource = &call.resource;
    if resource.version == resource.storage_version || resource.group == "events.k8s.io" {
        return text(object, &["apiVersion"]).to_owned();
    }
    format!("{}/{}", resource.group, resource.storage_version)
}
