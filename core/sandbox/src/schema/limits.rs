//! # Limits of custom kinds
//!
//! Job: checks an object against the types and limits of its definition, with Kubernetes' sentences.
//! May touch: one object. Must not touch: anything else.
//! Callers: writes of custom resources.

use serde_json::{Value, json};

use super::{Shape, Type, parse::Limits};
use crate::api::{FieldError, FieldErrorKind};

/// All breaches of the schema by the value at `path`.
pub(crate) fn validate(value: &Value, ty: Type<'_>, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() {
        if !ty.node.nullable && ty.node.shape != Shape::Any {
            errors.push(wrong_type(value, ty.node.shape, path));
        }
        return;
    }
    if !fits(value, ty.node.shape) {
        errors.push(wrong_type(value, ty.node.shape, path));
        return;
    }
    if let Some(limits) = &ty.node.limits {
        check_limits(value, ty, limits, path, errors);
    }
    match value {
        Value::Object(map) => {
            for name in &ty.node.required {
                if !map.contains_key(name) {
                    errors.push(FieldError::required(join(path, name), ""));
                }
            }
            for (name, value) in map {
                if let Some(ty) = ty.field(name) {
                    // A null that the schema does not allow has been dropped or defaulted as absent.
                    validate(value, ty, &join(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(ty) = ty.items() else { return };
            for (index, item) in items.iter().enumerate() {
                validate(item, ty, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn check_limits(
    value: &Value,
    ty: Type<'_>,
    limits: &Limits,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if !limits.allowed.is_empty() && !limits.allowed.contains(value) {
        let allowed: Vec<_> = limits
            .allowed
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        errors.push(FieldError::not_supported(path, value, &allowed));
    }
    let mut fail = |why: String| {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body {why}")));
    };
    match value {
        Value::Number(number) => check_number(number.as_f64().unwrap_or(0.0), limits, &mut fail),
        Value::String(text) => check_text(text, limits, &mut fail),
        Value::Array(items) => {
            let length = items.len() as u64;
            if limits.min_items.is_some_and(|n| length < n) {
                fail(format!("should have at least {} items", limits.min_items.unwrap_or(0)));
            }
            if limits.unique && items.iter().enumerate().any(|(i, v)| items[..i].contains(v)) {
                fail("shouldn't contain duplicates".into());
            }
        }
        Value::Object(map) => {
            let length = map.len() as u64;
            if limits.min_properties.is_some_and(|n| length < n) {
                fail(format!(
                    "should have at least {} properties",
                    limits.min_properties.unwrap_or(0)
                ));
            }
            if limits.max_properties.is_some_and(|n| length > n) {
                fail(format!(
                    "should have at most {} properties",
                    limits.max_properties.unwrap_or(0)
                ));
            }
        }
        _ => {}
    }
    if let (Value::Array(items), Some(most)) = (value, limits.max_items)
        && items.len() as u64 > most
    {
        errors.push(FieldError {
            field: path.to_owned(),
            kind: FieldErrorKind::TooMany,
            message: format!("Too many: {}: must have at most {most} items", items.len()),
        });
    }
    check_alternatives(value, ty, limits, path, errors);
}

fn check_number(number: f64, limits: &Limits, fail: &mut dyn FnMut(String)) {
    if let Some((minimum, exclusive)) = limits.minimum
        && (number < minimum || (exclusive && number == minimum))
    {
        let than = if exclusive { "than" } else { "than or equal to" };
        fail(format!("should be greater {than} {minimum}"));
    }
    if let Some((maximum, exclusive)) = limits.maximum
        && (number > maximum || (exclusive && number == maximum))
    {
        let than = if exclusive { "than" } else { "than or equal to" };
        fail(format!("should be less {than} {maximum}"));
    }
    if let Some(factor) = limits.multiple_of
        && (number / factor).fract() != 0.0
    {
        fail(format!("should be a multiple of {factor}"));
    }
}

fn check_text(text: &str, limits: &Limits, fail: &mut dyn FnMut(String)) {
    let length = text.chars().count() as u64;
    if limits.min_length.is_some_and(|n| length < n) {
        fail(format!("should be at least {} chars long", limits.min_length.unwrap_or(0)));
    }
    if limits.max_length.is_some_and(|n| length > n) {
        fail(format!("should be at most {} chars long", limits.max_length.unwrap_or(0)));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|p| !p.is_match(text)) {
        fail(format!("should match '{pattern}'"));
    }
    if limits.format.as_deref() == Some("date-time") && text.parse::<jiff::Timestamp>().is_err() {
        fail(format!("must be of type date-time: {text:?}"));
    }
}

fn check_alternatives(
    value: &Value,
    ty: Type<'_>,
    limits: &Limits,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let passes = |ty: Type<'_>| {
        let mut found = Vec::new();
        validate(value, ty, path, &mut found);
        found.is_empty()
    };
    let mut fail = |why: &str| {
        let error = FieldError::invalid("<nil>", &json!(""), &format!("{path:?} must {why}"));
        errors.push(error);
    };
    if !limits.one_of.is_empty() {
        match ty.alternatives(&limits.one_of).filter(|&ty| passes(ty)).count() {
            1 => {}
            0 => fail("validate one and only one schema (oneOf). Found none valid"),
            n => fail(&format!(
                "validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if !limits.any_of.is_empty() && !ty.alternatives(&limits.any_of).any(passes) {
        fail("validate at least one schema (anyOf)");
    }
    if !limits.all_of.is_empty() && !ty.alternatives(&limits.all_of).all(passes) {
        fail("validate all the schemas (allOf)");
    }
    if limits.not.is_some_and(|id| passes(ty.of(id))) {
        fail("not validate the schema (not)");
    }
}

fn fits(value: &Value, shape: Shape) -> bool {
    match shape {
        Shape::Any => true,
        Shape::Object => value.is_object(),
        Shape::Array => value.is_array(),
        Shape::String => value.is_string(),
        Shape::Integer => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        Shape::Number => value.is_number(),
        Shape::Boolean => value.is_boolean(),
        Shape::IntOrString => value.is_string() || value.is_i64() || value.is_u64(),
    }
}

fn wrong_type(value: &Value, shape: Shape, path: &str) -> FieldError {
    let expected = match shape {
        Shape::Any => "any",
        Shape::Object => "object",
        Shape::Array => "array",
        Shape::String => "string",
        Shape::Integer => "integer",
        Shape::Number => "number",
        Shape::Boolean => "boolean",
        Shape::IntOrString => "integer,string",
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let message =
        format!("Invalid value: {found:?}: {path} in body must be of type {expected}: {found:?}");
    FieldError { field: path.to_owned(), kind: FieldErrorKind::TypeInvalid, message }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
