//! # Scale
//!
//! Job: the scale subresource's view of an object, and its way back.
//! May touch: one object. Must not touch: the store.
//! Callers: `read`, `write`.

use serde_json::{Value, json};

use crate::api::{
    object::{at, map_at, map_of, meta},
    registry::Resource,
};

/// The object's `autoscaling/v1` Scale.
pub(crate) fn of(resource: &Resource, object: &Value) -> Value {
    let paths = paths(resource);
    let value = |path: &str| at(object, &segments(path)).cloned();
    let selector = match value(&paths[2]) {
        Some(Value::String(selector)) => selector,
        Some(selector) => selector_text(&selector),
        None => String::new(),
    };
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta(object, "name"), "namespace": meta(object, "namespace"),
            "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": value(&paths[0]).unwrap_or(json!(0))},
        "status": {"replicas": value(&paths[1]).unwrap_or(json!(0)), "selector": selector},
    })
}

/// Writes the replicas of a Scale into the object.
pub(crate) fn set(resource: &Resource, object: &mut Value, scale: &Value) {
    let replicas = at(scale, &["spec", "replicas"]).cloned().unwrap_or(json!(0));
    let path = paths(resource)[0].clone();
    let segments = segments(&path);
    let Some((last, parents)) = segments.split_last() else { return };
    let mut map = map_of(object);
    for parent in parents {
        map = map_at(map, parent);
    }
    map.insert((*last).to_owned(), replicas);
}

fn paths(resource: &Resource) -> [String; 3] {
    match resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => paths.clone(),
        None => [".spec.replicas", ".status.replicas", ".spec.selector"].map(str::to_owned),
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('.').filter(|segment| !segment.is_empty()).collect()
}

/// A label selector object in query form.
pub(crate) fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| value.as_str().map(|value| format!("{key}={value}")))
        .collect();
    for expression in crate::api::object::list(selector, &["matchExpressions"]) {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<_> = crate::api::object::list(expression, &["values"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}
