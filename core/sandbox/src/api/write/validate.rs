//! # Rules of every object
//!
//! Job: names, labels, annotations, finalizers and owners, and the kind's own rules.
//! May touch: objects. Must not touch: the store.
//! Callers: `write`.

use serde_json::{Value, json};

use crate::api::{
    decode,
    finish::{FOREGROUND, ORPHAN},
    object::{at, deleting, list, meta, text},
    registry::Subresource,
    request::Call,
    status::{ApiError, FieldError},
};

const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Finalizers without a domain that built-in kinds may have.
const OWN_FINALIZERS: [&str; 3] = [FOREGROUND, ORPHAN, "kubernetes"];

pub(super) fn new_object(call: &Call, object: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let name = meta(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = (call.resource.strategy.name)(name) {
        errors.push(FieldError::invalid("metadata.name", &json!(name), why));
    }
    finish(call, object, None, errors)
}

pub(super) fn change(call: &Call, new: &Value, old: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if deleting(old) {
        let kept = list(old, &["metadata", "finalizers"]);
        for finalizer in list(new, &["metadata", "finalizers"]) {
            if !kept.contains(finalizer) {
                let why = format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{finalizer}}}"
                );
                errors.push(FieldError::forbidden("metadata.finalizers", &why));
            }
        }
    }
    if matches!(
        call.subresource,
        Some(Subresource::Status | Subresource::Finalize | Subresource::Binding)
    ) {
        metadata(new, &mut errors);
        errors.extend((call.resource.strategy.validate_status)(new));
        if !call.resource.builtin() {
            errors.extend(decode::schema_errors(&call.resource, new));
        }
        return result(call, new, &errors);
    }
    finish(call, new, Some(old), errors)
}

fn finish(
    call: &Call,
    new: &Value,
    old: Option<&Value>,
    mut errors: Vec<FieldError>,
) -> Result<(), ApiError> {
    metadata(new, &mut errors);
    errors.extend(decode::schema_errors(&call.resource, new));
    errors.extend((call.resource.strategy.validate)(new, old));
    result(call, new, &errors)
}

fn result(call: &Call, object: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let resource = &call.resource;
    Err(ApiError::invalid(&resource.kind, &resource.group, meta(object, "name"), errors))
}

fn metadata(object: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in
        at(object, &["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten()
    {
        if let Some(why) = bad_key(key) {
            errors.push(FieldError::invalid("metadata.labels", &json!(key), why));
        }
        let value = value.as_str().unwrap_or_default();
        if !good_label_value(value) {
            errors.push(FieldError::invalid(
                "metadata.labels",
                &json!(value),
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                 must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                 regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ));
        }
    }
    let annotations = at(object, &["metadata", "annotations"]).and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        if let Some(why) = bad_key(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &json!(key), why));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError {
            field: "metadata.annotations".into(),
            kind: crate::api::status::FieldErrorKind::TooLong,
            message: format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"),
        });
    }
    owners(object, errors);
    finalizers(object, errors);
}

fn owners(object: &Value, errors: &mut Vec<FieldError>) {
    let owners = list(object, &["metadata", "ownerReferences"]);
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            let why = if field == "apiVersion" {
                "version must not be empty"
            } else {
                "must not be empty"
            };
            if text(owner, &[field]).is_empty() {
                let path = format!("metadata.ownerReferences.{field}");
                errors.push(FieldError::invalid(path, &json!(""), why));
            }
        }
        if (text(owner, &["apiVersion"]), text(owner, &["kind"])) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid("metadata.ownerReferences", owner, why));
        }
    }
    let mut controllers = owners.iter().filter(|owner| owner["controller"] == json!(true));
    if let (Some(first), Some(second)) = (controllers.next(), controllers.next()) {
        let named =
            |owner: &Value| format!("{}/{}", text(owner, &["kind"]), text(owner, &["name"]));
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            named(first),
            named(second)
        );
        errors.push(FieldError::invalid("metadata.ownerReferences", &json!(owners), &why));
    }
}

fn finalizers(object: &Value, errors: &mut Vec<FieldError>) {
    let builtin = !text(object, &["apiVersion"]).contains('.');
    let finalizers = list(object, &["metadata", "finalizers"]);
    for (index, finalizer) in finalizers.iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        if let Some(why) = bad_key(name) {
            errors.push(FieldError::invalid("metadata.finalizers", finalizer, why));
        } else if builtin && !name.contains('/') && !OWN_FINALIZERS.contains(&name) {
            errors.push(FieldError::invalid(
                format!("metadata.finalizers[{index}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if [FOREGROUND, ORPHAN].iter().all(|own| finalizers.iter().any(|f| f == own)) {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &json!(finalizers), why));
    }
}

fn bad_key(key: &str) -> Option<&'static str> {
    if key.matches('/').count() > 1 {
        return Some(
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
             an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. \
             'example.com/MyName')",
        );
    }
    let (prefix, name) = match key.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|p| crate::api::kinds::dns_subdomain(p).is_some()) {
        return Some(
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
             or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
    }
    (name.is_empty() || !good_label_value(name)).then_some(
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
    )
}

fn good_label_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && edge(value.chars().next())
        && edge(value.chars().last())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
