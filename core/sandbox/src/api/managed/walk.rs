//! # Walking objects by schema
//!
//! Job: which fields an object has, how two versions differ, and how lists and maps merge, element by element.
//! May touch: objects, schemas. Must not touch: owners.
//! Callers: `managed`, `apply`.

use serde_json::{Map, Value};

use super::fields::FieldSet;
use crate::schema::{ListType, Type};

/// How a place divides into parts.
pub(super) enum Parts<'v> {
    /// A scalar, or a list or map that is one thing.
    Whole,
    Fields(&'v Map<String, Value>),
    /// Elements of an associative list or set by their step.
    Elements(Vec<(String, &'v Value)>),
}

pub(super) fn parts<'v>(value: &'v Value, ty: Option<Type<'_>>) -> Parts<'v> {
    match value {
        Value::Object(_) if ty.is_some_and(|ty| ty.node.atomic_map) => Parts::Whole,
        Value::Object(map) => Parts::Fields(map),
        Value::Array(items) => match ty.map(|ty| &ty.node.list) {
            Some(ListType::Set) => {
                Parts::Elements(items.iter().map(|item| (format!("v:{item}"), item)).collect())
            }
            Some(ListType::Map(keys)) => {
                let item_type = ty.and_then(Type::items);
                let elements =
                    items.iter().map(|item| (key_step(item, keys, item_type), item)).collect();
                Parts::Elements(elements)
            }
            _ => Parts::Whole,
        },
        _ => Parts::Whole,
    }
}

/// The step of an element of an associative list; a missing key has its schema's default.
fn key_step(item: &Value, keys: &[String], item_type: Option<Type<'_>>) -> String {
    let mut sorted: Vec<_> = keys.iter().collect();
    sorted.sort();
    let mut key = Map::new();
    for name in sorted {
        let value = item.get(name).cloned().or_else(|| {
            item_type.and_then(|ty| ty.property(name)).and_then(|ty| ty.node.default.clone())
        });
        if let Some(value) = value {
            key.insert(name.clone(), value);
        }
    }
    format!("k:{}", Value::Object(key))
}

pub(super) fn field_step(name: &str) -> String {
    format!("f:{name}")
}

/// Which maps and lists are members themselves, besides their parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Containers {
    /// None: an applier owns only what it says.
    None,
    /// All: an updater owns what it made.
    All,
    /// All but the frame that every object of the kind has anyway.
    NotTheFrame,
}

/// Parts of the frame: Go structs that are there even if nothing is in them.
const FRAME: [&str; 7] =
    ["metadata", "spec", "status", "strategy", "updateStrategy", "template", "containers"];

/// The fields that an object has.
pub(super) fn fields_of(value: &Value, ty: Option<Type<'_>>, containers: Containers) -> FieldSet {
    let mut set = FieldSet::default();
    match parts(value, ty) {
        Parts::Whole => {}
        Parts::Fields(map) => {
            for (name, value) in map {
                let ty = ty.and_then(|ty| ty.field(name));
                let framed =
                    containers == Containers::NotTheFrame && FRAME.contains(&name.as_str());
                let below = if framed || containers == Containers::None {
                    containers
                } else {
                    Containers::All
                };
                let member = containers != Containers::None && !framed;
                add_part(&mut set, &field_step(name), value, ty, below, member);
            }
        }
        Parts::Elements(elements) => {
            let ty = ty.and_then(Type::items);
            let below = if containers == Containers::None { containers } else { Containers::All };
            for (step, value) in elements {
                add_part(&mut set, &step, value, ty, below, true);
            }
        }
    }
    set
}

/// Adds a place with its parts; a place without parts is a member in any case.
fn add_part(
    set: &mut FieldSet,
    step: &str,
    value: &Value,
    ty: Option<Type<'_>>,
    containers: Containers,
    member: bool,
) {
    let below = fields_of(value, ty, containers);
    if below.is_empty() || member {
        set.add(step);
    }
    set.put(step, below);
}

/// What two versions differ in.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Fields that the new version has and the old has not, or has otherwise.
    pub(super) changed: FieldSet,
    pub(super) removed: FieldSet,
}

pub(super) fn compare(old: &Value, new: &Value, ty: Option<Type<'_>>) -> Difference {
    let mut difference = Difference::default();
    match (parts(old, ty), parts(new, ty)) {
        (Parts::Fields(old), Parts::Fields(new)) => {
            for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                let ty = ty.and_then(|ty| ty.field(name));
                difference.part(&field_step(name), old.get(name), new.get(name), ty);
            }
        }
        (Parts::Elements(old), Parts::Elements(new)) => {
            let ty = ty.and_then(Type::items);
            let find = |list: &[(String, &'_ Value)], step: &str| {
                list.iter().position(|(own, _)| own == step)
            };
            for (step, value) in &old {
                let other = find(&new, step).map(|at| new[at].1);
                difference.part(step, Some(value), other, ty);
            }
            for (step, value) in new.iter().filter(|(step, _)| find(&old, step).is_none()) {
                difference.part(step, None, Some(value), ty);
            }
        }
        _ => {}
    }
    difference
}

impl Difference {
    fn part(&mut self, step: &str, old: Option<&Value>, new: Option<&Value>, ty: Option<Type<'_>>) {
        match (old, new) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => {
                let divided = matches!(
                    (parts(old, ty), parts(new, ty)),
                    (Parts::Fields(_), Parts::Fields(_)) | (Parts::Elements(_), Parts::Elements(_))
                );
                if divided {
                    let below = compare(old, new, ty);
                    self.changed.put(step, below.changed);
                    self.removed.put(step, below.removed);
                } else {
                    self.changed.add(step);
                    // What lay below the old form is gone with it.
                    self.removed.put(step, fields_of(old, ty, Containers::All));
                }
            }
            (None, Some(new)) => {
                add_part(&mut self.changed, step, new, ty, Containers::All, true);
            }
            (Some(old), None) => {
                add_part(&mut self.removed, step, old, ty, Containers::All, true);
            }
            (None, None) => {}
        }
    }
}

/// Lays a configuration over a live object: its scalars win, its maps and keyed lists are merged in.
pub(super) fn merge(live: &Value, config: &Value, ty: Option<Type<'_>>) -> Value {
    match (parts(live, ty), parts(config, ty)) {
        (Parts::Fields(live), Parts::Fields(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let ty = ty.and_then(|ty| ty.field(name));
                let value = match live.get(name) {
                    Some(live) => merge(live, value, ty),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Parts::Elements(live), Parts::Elements(config)) => {
            let ty = ty.and_then(Type::items);
            let mut merged: Vec<Value> = Vec::new();
            // Elements keep their place; new ones follow in the configuration's order.
            for (step, value) in &live {
                match config.iter().find(|(own, _)| own == step) {
                    Some((_, config)) => merged.push(merge(value, config, ty)),
                    None => merged.push((*value).clone()),
                }
            }
            for (step, value) in &config {
                if !live.iter().any(|(own, _)| own == step) {
                    merged.push((*value).clone());
                }
            }
            Value::Array(merged)
        }
        _ => config.clone(),
    }
}

/// Removes the paths of a set from an object; a map or list that becomes empty goes too.
pub(super) fn remove(value: &mut Value, set: &FieldSet, ty: Option<Type<'_>>) {
    let steps: Vec<String> = match parts(value, ty) {
        Parts::Whole => return,
        Parts::Fields(map) => map.keys().map(|name| field_step(name)).collect(),
        Parts::Elements(elements) => elements.into_iter().map(|(step, _)| step).collect(),
    };
    let descend = |value: &mut Value, step: &str, ty: Option<Type<'_>>| {
        if let Some(below) = set.below(step).filter(|below| !below.is_empty()) {
            remove(value, below, ty);
            return is_empty(value);
        }
        false
    };
    match value {
        Value::Object(map) => {
            let mut steps = steps.iter();
            map.retain(|name, value| {
                let Some(step) = steps.next() else { return true };
                let ty = ty.and_then(|ty| ty.field(name));
                !set.has(step) && !descend(value, step, ty)
            });
        }
        Value::Array(items) => {
            let ty = ty.and_then(Type::items);
            let mut steps = steps.iter();
            items.retain_mut(|value| {
                let Some(step) = steps.next() else { return true };
                !set.has(step) && !descend(value, step, ty)
            });
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
