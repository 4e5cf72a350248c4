//! # Apply configurations against their schema
//!
//! Job: refuses a configuration that has fields or values which its kind's schema does not have, or an element twice, in
//! Kubernetes' words.
//! May touch: objects, schemas. Must not touch: owners, the store.
//! Callers: `decode`.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    fields::printed,
    walk::{Parts, field_step, parts},
};
use crate::schema::{OBJECT_META, Shape, Type, builtin_definition};

/// Every breach, as `.path: why`, in one text; `None` if there is none.
pub(crate) fn breaches(config: &Value, ty: Type<'_>) -> Option<String> {
    let mut errors = Vec::new();
    check(config, ty, &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(value: &Value, ty: Type<'_>, path: &mut String, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    if let Some(why) = misfit(value, ty.node.shape) {
        errors.push(format!("{path}: {why}"));
        return;
    }
    match value {
        Value::Object(map) => {
            let meta = ty.node.embedded.then(|| builtin_definition(OBJECT_META)).flatten();
            for (name, value) in map {
                let own = ty.field(name);
                let own = match name.as_str() {
                    "metadata" => own.or(meta.as_ref().map(|meta| meta.get())),
                    _ => own,
                };
                let framed = meta.is_some() && matches!(name.as_str(), "apiVersion" | "kind");
                below(path, &field_step(name), |path| match own {
                    Some(ty) => check(value, ty, path, errors),
                    None if ty.node.preserve || framed => {}
                    None => errors.push(format!("{path}: field not declared in schema")),
                });
            }
        }
        Value::Array(items) => {
            let Some(item_type) = ty.items() else { return };
            match parts(value, Some(ty)) {
                Parts::Elements(elements) => {
                    let mut seen = HashSet::new();
                    for (step, value) in elements {
                        below(path, &step, |path| check(value, item_type, path, errors));
                        if !seen.insert(step.clone()) {
                            let key = printed(&step);
                            errors.push(format!("{path}: duplicate entries for key {key}"));
                        }
                    }
                }
                _ => {
                    for (index, value) in items.iter().enumerate() {
                        let step = format!("i:{index}");
                        below(path, &step, |path| check(value, item_type, path, errors));
                    }
                }
            }
        }
        _ => {}
    }
}

fn below(path: &mut String, step: &str, visit: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push_str(&printed(step));
    visit(path);
    path.truncate(length);
}

fn misfit(value: &Value, shape: Shape) -> Option<String> {
    let (expected, fits) = match shape {
        Shape::Any => return None,
        Shape::Object => ("map", value.is_object()),
        Shape::Array => ("list", value.is_array()),
        Shape::String => ("string", value.is_string()),
        Shape::Integer | Shape::Number => ("numeric (int or float)", value.is_number()),
        Shape::Boolean => ("boolean", value.is_boolean()),
        Shape::IntOrString => ("any scalar", !value.is_object() && !value.is_array()),
    };
    if fits {
        return None;
    }
    let found = match shape {
        Shape::Object | Shape::Array => format!("&{{{}}}", go_print(value)),
        Shape::Integer | Shape::Number => go_type(value).to_owned(),
        _ => format!("&value.valueUnstructured{{Value:{}}}", go_print(value)),
    };
    Some(format!("expected {expected}, got {found}"))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go prints it with `%v`.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> =
                map.iter().map(|(name, value)| format!("{name}:{}", go_print(value))).collect();
            entries.sort();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}
