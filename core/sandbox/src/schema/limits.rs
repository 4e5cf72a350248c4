//! # Limits of custom kinds
//!
//! Job: checks an object against the types and limits of its definition, with Kubernetes' sentences.
//! May touch: one object. Must not touch: anything else.
//! Callers: writes of custom resources.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::Regex;
use serde_json::{Value, json};

use super::{ListType, Shape, Type, parse::Limits};
use crate::api::{FieldError, FieldErrorKind};

/// A duration as Go writes it, or a number with a unit by name.
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x) ^ ([-+]? ( 0 | ((\d+\.?\d* | \.\d+) (ns|us|\u{b5}s|\u{3bc}s|ms|s|m|h))+ )
        | \d+\s* ((ns|us|ms|s|m|h|d|w) | (nano|nanosecond|micro|microsecond|milli|millisecond|sec|second|min|minute
        |hr|hour|day|wk|week)s?)) $",
    )
    .expect("the expression is a constant")
});

/// All breaches of the schema by the value at `path`.
pub(crate) fn validate(value: &Value, ty: Type<'_>, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() {
        if !ty.node.nullable && ty.node.shape != Shape::Any {
            errors.push(wrong_type(value, ty.node.shape, path));
        }
        return;
    }
    let fits = fits(value, ty.node.shape);
    if !fits {
        errors.push(wrong_type(value, ty.node.shape, path));
    }
    if let Some(limits) = &ty.node.limits {
        check_any(value, ty, limits, path, errors);
        if fits {
            check_limits(value, limits, path, errors);
        }
    }
    match value {
        _ if !fits => {}
        Value::Object(map) => {
            let frame = if ty.node.embedded { &["apiVersion", "kind"][..] } else { &[] };
            for name in frame.iter().copied().chain(ty.node.required.iter().map(String::as_str)) {
                if !map.contains_key(name) {
                    errors.push(FieldError::required(join(path, name), ""));
                }
            }
            for (name, value) in map {
                if let Some(ty) = ty.field(name) {
                    validate(value, ty, &join(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            check_keys(items, ty, path, errors);
            let Some(ty) = ty.items() else { return };
            for (index, item) in items.iter().enumerate() {
                validate(item, ty, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

/// No element of a set, and no key of an associative list, is there twice.
fn check_keys(items: &[Value], ty: Type<'_>, path: &str, errors: &mut Vec<FieldError>) {
    let key = |item: &Value| match &ty.node.list {
        ListType::Atomic => None,
        ListType::Set => Some(item.clone()),
        ListType::Map(keys) => {
            let item = item.as_object()?;
            let own = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
            Some(own.collect())
        }
    };
    let mut seen: Vec<Value> = Vec::new();
    for (index, key) in items.iter().enumerate().filter_map(|(at, item)| Some((at, key(item)?))) {
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), &key));
        } else {
            seen.push(key);
        }
    }
}

/// What concerns a value of any type.
fn check_any(
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
    check_alternatives(value, ty, limits, path, errors);
}

fn check_limits(value: &Value, limits: &Limits, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Number(number) => {
            let mut fail = |why: String| {
                errors.push(FieldError::invalid(path, value, &format!("{path} in body {why}")));
            };
            check_number(number.as_f64().unwrap_or(0.0), limits, &mut fail);
        }
        Value::String(text) => errors.extend(check_text(text, limits, path)),
        Value::Array(items) => {
            let bounds = (limits.min_items, limits.max_items);
            errors.extend(check_count(items.len(), bounds, "items", path));
            if limits.unique && items.iter().enumerate().any(|(i, v)| items[..i].contains(v)) {
                let why = format!("{path} in body shouldn't contain duplicates");
                errors.push(FieldError::invalid(path, value, &why));
            }
        }
        Value::Object(map) => {
            let bounds = (limits.min_properties, limits.max_properties);
            errors.extend(check_count(map.len(), bounds, "properties", path));
        }
        _ => {}
    }
}

fn check_count(
    count: usize,
    (least, most): (Option<u64>, Option<u64>),
    of: &str,
    path: &str,
) -> Option<FieldError> {
    let number = count as u64;
    if let Some(least) = least.filter(|least| number < *least) {
        let why = format!("{path} in body should have at least {least} {of}");
        return Some(FieldError::invalid(path, &json!(count), &why));
    }
    let most = most.filter(|most| number > *most)?;
    Some(FieldError {
        field: path.to_owned(),
        kind: FieldErrorKind::TooMany,
        message: format!("Too many: {count}: must have at most {most} items"),
    })
}

fn check_number(number: f64, limits: &Limits, fail: &mut dyn FnMut(String)) {
    if let Some(factor) = limits.multiple_of
        && (number / factor).fract() != 0.0
    {
        fail(format!("should be a multiple of {factor}"));
    }
    if let Some((maximum, exclusive)) = limits.maximum
        && (number > maximum || (exclusive && number == maximum))
    {
        let than = if exclusive { "than" } else { "than or equal to" };
        fail(format!("should be less {than} {maximum}"));
    }
    if let Some((minimum, exclusive)) = limits.minimum
        && (number < minimum || (exclusive && number == minimum))
    {
        let than = if exclusive { "than" } else { "than or equal to" };
        fail(format!("should be greater {than} {minimum}"));
    }
}

/// The first limit that a text breaks.
fn check_text(text: &str, limits: &Limits, path: &str) -> Option<FieldError> {
    let invalid = |why: String| {
        Some(FieldError::invalid(path, &json!(text), &format!("{path} in body {why}")))
    };
    let length = text.chars().count() as u64;
    if let Some(most) = limits.max_length.filter(|most| length > *most) {
        return Some(FieldError {
            field: path.to_owned(),
            kind: FieldErrorKind::TooLong,
            message: format!("Too long: may not be more than {most} bytes"),
        });
    }
    if let Some(least) = limits.min_length.filter(|least| length < *least) {
        return invalid(format!("should be at least {least} chars long"));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|p| !p.is_match(text)) {
        return invalid(format!("should match '{pattern}'"));
    }
    let format = limits.format.as_deref().filter(|format| !has_format(text, format))?;
    let why = format!("{path} in body must be of type {format}: {text:?}");
    let error = FieldError::invalid(path, &json!(text), &why);
    Some(FieldError { kind: FieldErrorKind::TypeInvalid, ..error })
}

/// Whether a text has a format; those that are not known here fit anything.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "byte" => STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "duration" => DURATION.is_match(text),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        _ => true,
    }
}

fn check_alternatives(
    value: &Value,
    ty: Type<'_>,
    limits: &Limits,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let breaches = |ty: Type<'_>| {
        let mut found = Vec::new();
        validate(value, ty, path, &mut found);
        found
    };
    let passes = |ty: Type<'_>| breaches(ty).is_empty();
    // Where no alternative fits, what the first one misses is told, too.
    let first = |ids: &[usize]| ids.first().map_or_else(Vec::new, |&id| breaches(ty.of(id)));
    let mut fail = |why: &str, more: Vec<FieldError>| {
        errors.push(FieldError::invalid("<nil>", &json!(""), &format!("{path:?} must {why}")));
        errors.extend(more);
    };
    if !limits.one_of.is_empty() {
        match ty.alternatives(&limits.one_of).filter(|&ty| passes(ty)).count() {
            1 => {}
            0 => fail(
                "validate one and only one schema (oneOf). Found none valid",
                first(&limits.one_of),
            ),
            n => {
                let why = format!(
                    "validate one and only one schema (oneOf). Found {n} valid alternatives"
                );
                fail(&why, Vec::new());
            }
        }
    }
    if !limits.any_of.is_empty() && !ty.alternatives(&limits.any_of).any(passes) {
        fail("validate at least one schema (anyOf)", first(&limits.any_of));
    }
    let missed: Vec<_> = ty.alternatives(&limits.all_of).flat_map(breaches).collect();
    if !missed.is_empty() {
        fail("validate all the schemas (allOf)", missed);
    }
    if limits.not.is_some_and(|id| passes(ty.of(id))) {
        fail("not validate the schema (not)", Vec::new());
    }
}

fn fits(value: &Value, shape: Shape) -> bool {
    match shape {
        Shape::Any => true,
        Shape::Object => value.is_object(),
        Shape::Array => value.is_array(),
        Shape::String => value.is_string(),
        Shape::Integer => {
            value.is_i64() || (value.is_f64() && value.as_f64().is_some_and(|n| n.fract() == 0.0))
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
        Value::Number(n) if n.is_i64() => "integer",
        Value::Number(_) => "number",
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
