//! # Pruning and defaults
//!
//! Job: drops what a schema does not name, reports it, finds values of the wrong type, fills a definition's defaults.
//! May touch: one object. Must not touch: anything else.
//! Callers: decoding.

use serde_json::{Map, Value};

use super::{OBJECT_META, Shape, Type, builtin_definition};

/// What pruning met.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Paths of dropped fields.
    pub(crate) unknown: Vec<String>,
    /// The first value of a wrong type: path, JSON type found, type expected.
    pub(crate) mismatch: Option<(String, &'static str, &'static str)>,
}

/// Drops unknown fields. `typed` tells built-in kinds, where null, an empty map and an empty list mean absent and a wrong
/// type is an error of decoding; a definition's limits report wrong types themselves. Metadata is typed in any case.
pub(crate) fn prune(value: &mut Value, ty: Type<'_>, typed: bool) -> Findings {
    let mut findings = Findings::default();
    Pruner { typed, findings: &mut findings }.value(value, ty, &mut String::new());
    findings
}

struct Pruner<'f> {
    typed: bool,
    findings: &'f mut Findings,
}

impl Pruner<'_> {
    fn value(&mut self, value: &mut Value, ty: Type<'_>, path: &mut String) {
        if self.typed {
            self.check(value, ty, path);
        }
        match value {
            Value::Object(map) => self.map(map, ty, path),
            Value::Array(items) => {
                let Some(ty) = ty.items() else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    let length = path.len();
                    path.push_str(&format!("[{index}]"));
                    self.value(item, ty, path);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn map(&mut self, map: &mut Map<String, Value>, ty: Type<'_>, path: &mut String) {
        let embedded_meta = ty.node.embedded.then(|| builtin_definition(OBJECT_META)).flatten();
        let typed = self.typed;
        let keys = ty.values().is_some();
        if typed && ty.values().is_none() && !ty.node.preserve {
            map.retain(|_, value| !value.is_null());
        } else if typed && ty.values().is_some_and(|ty| ty.node.shape == Shape::String) {
            map.values_mut()
                .filter(|v| v.is_null())
                .for_each(|v| *v = Value::String(String::new()));
        }
        map.retain(|name, value| {
            let length = path.len();
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            let known = match (ty.field(name), &embedded_meta) {
                (None, Some(meta)) if name == "metadata" => {
                    self.value(value, meta.get(), path);
                    true
                }
                (None, Some(_)) if name == "apiVersion" || name == "kind" => true,
                (Some(ty), _) => {
                    self.typed |= path == "metadata";
                    let before = self.findings.mismatch.is_some();
                    self.value(value, ty, path);
                    self.typed = typed;
                    if !before && keys {
                        self.drop_key(path);
                    }
                    true
                }
                (None, _) => ty.node.preserve,
            };
            if !known {
                self.findings.unknown.push(path.clone());
            }
            path.truncate(length);
            // An empty list of field owners is a wish to forget them.
            let absent = typed
                && name != "managedFields"
                && ty.field(name).is_some_and(|ty| is_empty(value, ty));
            known && (!absent || ty.node.required.contains(name))
        });
    }

    /// Go's decoder names the map, not its key.
    fn drop_key(&mut self, path: &str) {
        if let Some((at, ..)) = &mut self.findings.mismatch
            && *at == without_indexes(path)
            && let Some(dot) = at.rfind('.')
        {
            at.truncate(dot);
        }
    }

    fn check(&mut self, value: &Value, ty: Type<'_>, path: &str) {
        let fits = match ty.node.shape {
            Shape::Any => true,
            Shape::Object => value.is_object(),
            Shape::Array => value.is_array(),
            Shape::String => value.is_string(),
            Shape::Integer => value.is_i64() || value.is_u64(),
            Shape::Number => value.is_number(),
            Shape::Boolean => value.is_boolean(),
            Shape::IntOrString => value.is_string() || value.is_i64() || value.is_u64(),
        };
        if !fits && !value.is_null() && self.findings.mismatch.is_none() {
            let expected = go_type(ty.node.shape);
            self.findings.mismatch = Some((without_indexes(path), json_type(value), expected));
        }
    }
}

/// Whether a value is an empty map or list; an empty object of known fields is something else.
fn is_empty(value: &Value, ty: Type<'_>) -> bool {
    match value {
        Value::Object(map) => map.is_empty() && ty.values().is_some(),
        Value::Array(items) => items.is_empty() && ty.items().is_some(),
        _ => false,
    }
}

/// Fills the defaults that a definition gives; a null that it does not allow counts as absent.
pub(crate) fn fill_defaults(value: &mut Value, ty: Type<'_>) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                !value.is_null() || ty.field(name).is_none_or(|ty| ty.node.nullable)
            });
            for (name, ty) in ty.properties() {
                let Some(default) = &ty.node.default else { continue };
                map.entry(name).or_insert_with(|| default.clone());
            }
            for (name, value) in map.iter_mut() {
                if let Some(ty) = ty.field(name) {
                    fill_defaults(value, ty);
                }
            }
        }
        Value::Array(items) => {
            let Some(ty) = ty.items() else { return };
            for item in items {
                fill_defaults(item, ty);
            }
        }
        _ => {}
    }
}

/// Go's decoder names fields, not elements.
fn without_indexes(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(shape: Shape) -> &'static str {
    match shape {
        Shape::Any => "interface {}",
        Shape::Object => "map",
        Shape::Array => "slice",
        Shape::String => "string",
        Shape::Integer => "int32",
        Shape::Number => "float64",
        Shape::Boolean => "bool",
        Shape::IntOrString => "intstr.IntOrString",
    }
}
