//! # Objects as JSON
//!
//! Job: short accessors for the parts that every Kubernetes object has.
//! May touch: JSON values. Must not touch: anything else.
//! Callers: the whole API server.

use serde_json::{Map, Value};

/// A string below `metadata`, empty if absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata` as a map to write to; anything that is not a map is replaced by one.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_at(map_of(object), "metadata")
}

/// The value as a map to write to; anything that is not a map is replaced by one.
pub(crate) fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("the value was just made a map")
}

/// The map under `key`, made if it is absent.
pub(crate) fn map_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    map_of(map.entry(key).or_insert_with(|| Value::Object(Map::new())))
}

/// A string by a chain of fields, empty if absent.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// A value by a chain of fields.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, field| value.get(field))
}

/// The elements of a list by a chain of fields, none if absent.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The elements of a list to write to, none if absent.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let mut value = Some(value);
    for field in path {
        value = value.and_then(|v| v.get_mut(field));
    }
    value.and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Sets a field if it is absent or null.
pub(crate) fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    match map.get_mut(key) {
        Some(Value::Null) | None => {
            map.insert(key.to_owned(), value.into());
        }
        Some(_) => {}
    }
}

/// Whether an object is on its way out.
pub(crate) fn deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// The present second in the form of `metav1.Time`.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
