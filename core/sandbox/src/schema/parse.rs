//! # Reading schemas
//!
//! Job: turns OpenAPI (Kubernetes' own and a definition's) into nodes.
//! May touch: JSON. Must not touch: objects.
//! Callers: `schema`.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;
use regex::Regex;
use serde_json::{Value, json};

use super::{Arena, DEFINITIONS, ListType, Node, OBJECT_META, PatchStrategy, REF, Shape};

/// Limits of a value that only custom definitions give.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) minimum: Option<(f64, bool)>,
    pub(crate) maximum: Option<(f64, bool)>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) unique: bool,
    pub(crate) pattern: Option<Regex>,
    pub(crate) format: Option<String>,
    pub(crate) allowed: Vec<Value>,
    pub(super) one_of: Vec<usize>,
    pub(super) any_of: Vec<usize>,
    pub(super) all_of: Vec<usize>,
    pub(super) not: Option<usize>,
}

pub(super) struct Builder {
    nodes: Vec<Node>,
    names: HashMap<String, usize>,
    /// How deep the reader is in built-in definitions.
    builtin: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { nodes: Vec::new(), names: HashMap::new(), builtin: 0 }
    }

    pub(super) fn finish(self) -> (Arc<Arena>, HashMap<String, usize>) {
        (Arc::new(Arena { nodes: self.nodes }), self.names)
    }

    /// A definition of the schema file, read once.
    pub(super) fn named(&mut self, name: &str) -> usize {
        if let Some(&id) = self.names.get(name) {
            return id;
        }
        let id = self.nodes.len();
        // The place is taken first: definitions may contain themselves.
        self.nodes.push(Node::default());
        self.names.insert(name.to_owned(), id);
        if let Some(definition) = DEFINITIONS.get(name) {
            self.builtin += 1;
            self.nodes[id] = self.node(definition);
            self.builtin -= 1;
        }
        id
    }

    /// The root of a custom kind: metadata is always Kubernetes' own.
    pub(super) fn custom_root(&mut self, open_api: &Value) -> usize {
        let free = json!({"x-kubernetes-preserve-unknown-fields": true});
        let mut node = self.node(if open_api.is_object() { open_api } else { &free });
        node.shape = Shape::Object;
        let meta = self.named(OBJECT_META);
        let string = self.push(&json!({"type": "string"}));
        node.properties.insert("apiVersion".into(), string);
        node.properties.insert("kind".into(), string);
        node.properties.insert("metadata".into(), meta);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn push(&mut self, schema: &Value) -> usize {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix(REF)) {
            let id = self.named(name);
            if schema.as_object().is_none_or(|s| s.keys().all(|k| k == "$ref" || k == "default")) {
                return id;
            }
            // A reference with merge hints of its own (an atomic map, for example) is a node of its own.
            let mut merged = DEFINITIONS[name].clone();
            for (key, value) in schema.as_object().into_iter().flatten() {
                if key != "$ref" {
                    merged[key] = value.clone();
                }
            }
            let node = self.node(&merged);
            self.nodes.push(node);
            return self.nodes.len() - 1;
        }
        let node = self.node(schema);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn node(&mut self, schema: &Value) -> Node {
        let flag = |name: &str| schema[name] == json!(true);
        let mut properties = IndexMap::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            properties.insert(name.clone(), self.push(property));
        }
        let additional = match &schema["additionalProperties"] {
            Value::Object(_) => Some(self.push(&schema["additionalProperties"])),
            Value::Bool(true) => {
                Some(self.push(&json!({"x-kubernetes-preserve-unknown-fields": true})))
            }
            _ => None,
        };
        let items = schema.get("items").map(|items| self.push(items));
        let shape = shape(schema);
        let atomic_map = schema["x-kubernetes-map-type"] == "atomic";
        Node {
            // Built-in: a map of which nothing is known is free JSON (FieldsV1, for example). In a custom
            // definition it is an empty map.
            preserve: flag("x-kubernetes-preserve-unknown-fields")
                || (properties.is_empty()
                    && additional.is_none()
                    && (shape == Shape::Any || (self.builtin > 0 && shape == Shape::Object))),
            shape,
            properties,
            additional,
            items,
            list: list_type(schema),
            atomic_map,
            patch: patch_strategy(schema),
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            required: strings(&schema["required"]),
            default: schema.get("default").cloned(),
            limits: self.limits(schema).map(Box::new),
        }
    }

    fn limits(&mut self, schema: &Value) -> Option<Limits> {
        let number = |name: &str| schema[name].as_f64();
        let count = |name: &str| schema[name].as_u64();
        let flag = |name: &str| schema[name] == json!(true);
        let mut ids = |name: &str| -> Vec<usize> {
            schema[name].as_array().into_iter().flatten().map(|s| self.push(s)).collect()
        };
        let (one_of, any_of, all_of) = (ids("oneOf"), ids("anyOf"), ids("allOf"));
        let limits = Limits {
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            multiple_of: number("multipleOf"),
            unique: flag("uniqueItems"),
            pattern: schema["pattern"].as_str().and_then(|p| Regex::new(p).ok()),
            format: schema["format"].as_str().map(str::to_owned),
            allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
            one_of,
            any_of,
            all_of,
            not: schema.get("not").map(|s| self.push(s)),
        };
        let any = [
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "multipleOf",
            "uniqueItems",
            "pattern",
            "format",
            "enum",
            "oneOf",
            "anyOf",
            "allOf",
            "not",
        ];
        any.iter().any(|name| schema.get(name).is_some()).then_some(limits)
    }
}

fn shape(schema: &Value) -> Shape {
    if schema["x-kubernetes-int-or-string"] == json!(true) || schema["format"] == "int-or-string" {
        return Shape::IntOrString;
    }
    match schema["type"].as_str() {
        Some("object") => Shape::Object,
        Some("array") => Shape::Array,
        Some("string") => Shape::String,
        Some("integer") => Shape::Integer,
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        _ => Shape::Any,
    }
}

fn list_type(schema: &Value) -> ListType {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(strings(&schema["x-kubernetes-list-map-keys"])),
        _ => ListType::Atomic,
    }
}

fn patch_strategy(schema: &Value) -> PatchStrategy {
    let strategy = schema["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
    PatchStrategy {
        merge: strategy.split(',').any(|s| s == "merge"),
        retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
        key: schema["x-kubernetes-patch-merge-key"].as_str().map(str::to_owned),
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
