//! # CustomResourceDefinitions
//!
//! Job: defaults and rules of definitions, and the conditions that say that they are served.
//! May touch: one object. Must not touch: the registry.
//! Callers: `kinds`, `write`.

use serde_json::{Map, Value, json};

use crate::api::{
    object::{at, default as put, list, map_at, map_of, meta, now, text},
    status::FieldError,
};

pub(super) fn default(object: &mut Map<String, Value>) {
    let spec = map_at(object, "spec");
    put(map_at(spec, "conversion"), "strategy", "None");
    let names = map_at(spec, "names");
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    put(names, "singular", kind.to_lowercase());
    put(names, "listKind", format!("{kind}List"));
}

/// Names are accepted and the versions served at once: there is nobody else to ask.
pub(crate) fn establish(definition: &mut Value) {
    let since = now();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": since})
    };
    let names = definition["spec"]["names"].clone();
    let stored: Vec<Value> = list(definition, &["spec", "versions"])
        .iter()
        .filter(|v| v["storage"] == json!(true))
        .map(|v| v["name"].clone())
        .collect();
    let status = map_at(map_of(definition), "status");
    status.insert("acceptedNames".into(), names);
    put(
        status,
        "conditions",
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                "InitialNamesAccepted",
                "the initial names have been accepted"
            ),
        ]),
    );
    let kept = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(kept) = kept.as_array_mut() {
        for version in stored {
            if !kept.contains(&version) {
                kept.push(version);
            }
        }
    }
}

pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (group, plural) = (text(new, &["spec", "group"]), text(new, &["spec", "names", "plural"]));
    for (field, value) in [
        ("spec.group", group),
        ("spec.names.plural", plural),
        ("spec.names.kind", text(new, &["spec", "names", "kind"])),
    ] {
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        }
    }
    let expected = format!("{plural}.{group}");
    if meta(new, "name") != expected && !group.is_empty() {
        let why = format!("must be spec.names.plural+\".\"+spec.group, in other words {expected}");
        errors.push(FieldError::invalid("metadata.name", &json!(meta(new, "name")), &why));
    }
    let scope = text(new, &["spec", "scope"]);
    if !["Namespaced", "Cluster"].contains(&scope) {
        let supported = ["Cluster", "Namespaced"];
        errors.push(FieldError::not_supported("spec.scope", &json!(scope), &supported));
    }
    let versions = list(new, &["spec", "versions"]);
    if versions.iter().filter(|v| v["storage"] == json!(true)).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &new["spec"]["versions"], why));
    }
    for (index, version) in versions.iter().enumerate() {
        if at(version, &["schema", "openAPIV3Schema"]).is_none() {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(field, "schemas are required"));
        }
    }
    let strategy = text(new, &["spec", "conversion", "strategy"]);
    if strategy != "None" {
        // Conversion by webhook is not offered here.
        errors.push(FieldError::not_supported(
            "spec.conversion.strategy",
            &json!(strategy),
            &["None"],
        ));
    }
    if let Some(old) = old {
        for field in ["group", "scope"] {
            if new["spec"][field] != old["spec"][field] {
                let path = format!("spec.{field}");
                errors.push(FieldError::invalid(path, &new["spec"][field], "field is immutable"));
            }
        }
    }
    errors
}
