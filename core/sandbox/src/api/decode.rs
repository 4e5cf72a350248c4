//! # From a body to an object
//!
//! Job: makes what a client sent into a well-formed object of its kind: unknown fields dropped (or refused),
//! wrong types refused, defaults filled.
//! May touch: one object. Must not touch: the store.
//! Callers: `write`.

use serde_json::{Value, json};

use super::{
    kinds::events,
    managed,
    object::{map_of, meta, meta_mut, text},
    registry::Resource,
    request::{Call, Verb},
    status::{ApiError, FieldError, Reason},
};
use crate::schema;

/// Brings a body to the form in which objects of the resource are stored.
pub(crate) fn normalise(call: &Call, value: Value) -> Result<Value, ApiError> {
    let resource = &call.resource;
    let mut value = check_identity(call, value)?;
    let ty = resource.schema.get();
    let given = (call.verb == Verb::Patch).then(|| value.clone());
    let findings = schema::prune(&mut value, ty, resource.builtin());
    if let Some(mismatch) = findings.mismatch {
        return Err(wrong_type(resource, &mismatch));
    }
    report_unknown(call, findings.unknown, || given.unwrap_or_default().to_string())?;
    if resource.builtin() {
        drop_empty_metadata(&mut value);
    } else {
        schema::fill_defaults(&mut value, ty);
    }
    if resource.group == "events.k8s.io" {
        value = events::to_core(value);
    }
    (resource.strategy.default)(map_of(&mut value));
    Ok(value)
}

/// A review, of which nothing is stored: its types checked, what it should not have dropped.
pub(crate) fn question(call: &Call, mut value: Value) -> Result<Value, ApiError> {
    let findings = schema::prune(&mut value, call.resource.schema.get(), true);
    match findings.mismatch {
        Some(mismatch) => Err(wrong_type(&call.resource, &mismatch)),
        None => Ok(value),
    }
}

/// Defaults and pruning again, after admission has changed the object.
pub(crate) fn renormalise(call: &Call, value: &mut Value) {
    let resource = &call.resource;
    if resource.group == "events.k8s.io" {
        return;
    }
    schema::prune(value, resource.schema.get(), resource.builtin());
    if !resource.builtin() {
        schema::fill_defaults(value, resource.schema.get());
    }
    (resource.strategy.default)(map_of(value));
}

/// Breaches of a custom kind's schema.
pub(crate) fn schema_errors(resource: &Resource, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !resource.builtin() {
        schema::validate(value, resource.schema.get(), "", &mut errors);
    }
    errors
}

fn check_identity(call: &Call, mut value: Value) -> Result<Value, ApiError> {
    let resource = &call.resource;
    let expected = resource.api_version();
    let (kind, api_version) = (text(&value, &["kind"]), text(&value, &["apiVersion"]));
    // Clients of one typed API may leave both out; a custom kind has no type to tell them from.
    if api_version != expected && !(api_version.is_empty() && resource.builtin()) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if kind.is_empty() && !resource.builtin() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{value}'",
            resource.kind
        )));
    }
    if kind != resource.kind && !resource.builtin() {
        let error =
            FieldError::invalid("kind", &json!(kind), &format!("must be {}", resource.kind));
        return Err(ApiError::invalid(kind, &resource.group, meta(&value, "name"), &[error]));
    }
    if !kind.is_empty() && kind != resource.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: no kind {kind:?} is registered for this resource",
            resource.version, resource.kind
        )));
    }
    let name = meta(&value, "name");
    if !call.name.is_empty() && !name.is_empty() && name != call.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let namespace = meta(&value, "namespace");
    if resource.namespaced && !namespace.is_empty() && namespace != call.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let map = map_of(&mut value);
    map.insert("apiVersion".into(), expected.into());
    map.insert("kind".into(), resource.kind.clone().into());
    let metadata = meta_mut(&mut value);
    if !call.name.is_empty() {
        metadata.insert("name".into(), call.name.clone().into());
    }
    if resource.namespaced {
        metadata.insert("namespace".into(), call.namespace.clone().into());
    } else {
        metadata.remove("namespace");
    }
    Ok(value)
}

/// Tells or refuses fields that the schema does not have; `patch` is the text of the patch that brought them.
fn report_unknown(
    call: &Call,
    mut unknown: Vec<String>,
    patch: impl FnOnce() -> String,
) -> Result<(), ApiError> {
    if unknown.is_empty() {
        return Ok(());
    }
    if !call.resource.builtin() {
        unknown.sort_by_key(|path| (!path.starts_with("metadata."), path.clone()));
    }
    let sentences: Vec<_> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match call.query.get("fieldValidation") {
        "Strict" => {
            let why = format!("strict decoding error: {}", sentences.join(", "));
            if call.verb == Verb::Patch {
                let error = FieldError::invalid("patch", &json!(patch()), &why);
                return Err(ApiError::invalid("", "", "", &[error]));
            }
            Err(unreadable(&call.resource, &why))
        }
        "Ignore" => Ok(()),
        _ => {
            sentences.into_iter().for_each(|sentence| call.warn(sentence));
            Ok(())
        }
    }
}

fn wrong_type(
    resource: &Resource,
    (path, found, expected): &(String, &'static str, &'static str),
) -> ApiError {
    let field = match path.strip_prefix("metadata.") {
        Some(field) if !resource.builtin() => format!("ObjectMeta.{field}"),
        _ => format!("{}.{path}", resource.kind),
    };
    let why =
        format!("json: cannot unmarshal {found} into Go struct field {field} of type {expected}");
    unreadable(resource, &why)
}

fn unreadable(resource: &Resource, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        resource.kind, resource.version, resource.kind
    ))
}

/// Typed objects do not write empty metadata.
fn drop_empty_metadata(value: &mut Value) {
    // An empty list of owners has a meaning of its own.
    meta_mut(value).retain(|name, field| {
        name == "managedFields"
            || (*field != json!({}) && *field != json!([]) && *field != json!(""))
    });
}

/// An apply configuration in the stored form's terms: checked, but with no defaults, since the applier owns only what it
/// says.
pub(crate) fn applied(call: &Call, config: Value) -> Result<Value, ApiError> {
    let resource = &call.resource;
    if let Some(why) = managed::breaches(&config, resource.schema.get()) {
        let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
        let object = format!("(/{}; {group}/{version}, Kind={kind})", call.name);
        let why = format!("failed to create typed patch object {object}: {why}");
        return Err(ApiError::new(Reason::Other(500), why));
    }
    let mut config = check_identity(call, config)?;
    schema::prune(&mut config, resource.schema.get(), resource.builtin());
    Ok(config)
}
