//! # Schemas
//!
//! Job: the structure of built-in and custom kinds in one form: what fields there are, how lists and maps merge,
//! which defaults and limits a definition gives.
//! May touch: the trimmed schema file, JSON values. Must not touch: the store, requests.
//! Callers: decoding, patches, server-side apply, OpenAPI.

mod limits;
mod parse;
mod prune;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use indexmap::IndexMap;
use serde_json::Value;

pub(crate) use self::{
    limits::validate,
    parse::Limits,
    prune::{fill_defaults, prune},
};

/// The definitions of the trimmed schema file by name.
pub(crate) static DEFINITIONS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../schema/kubernetes.json"))
        .expect("the schema file is part of the program and was written by jq")
});

/// Name of the definition of `metadata`.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const REF: &str = "#/components/schemas/";

static BUILTIN: LazyLock<Builtin> = LazyLock::new(Builtin::load);

/// All nodes of one schema; nodes refer to each other by index, since schemas may be recursive.
#[derive(Debug)]
pub(crate) struct Arena {
    nodes: Vec<Node>,
}

/// A type within an arena that it keeps alive.
#[derive(Clone, Debug)]
pub(crate) struct TypeRef {
    arena: Arc<Arena>,
    id: usize,
}

/// A type as a walker holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Type<'a> {
    arena: &'a Arena,
    pub(crate) node: &'a Node,
}

/// One place in a schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) shape: Shape,
    properties: IndexMap<String, usize>,
    additional: Option<usize>,
    items: Option<usize>,
    pub(crate) list: ListType,
    /// Owned and replaced as a whole although it is a map.
    pub(crate) atomic_map: bool,
    pub(crate) patch: PatchStrategy,
    /// Fields that the schema does not name are kept.
    pub(crate) preserve: bool,
    /// Has apiVersion, kind and metadata of its own.
    pub(crate) embedded: bool,
    pub(crate) nullable: bool,
    pub(crate) required: Vec<String>,
    pub(crate) default: Option<Value>,
    pub(crate) limits: Option<Box<Limits>>,
}

/// What JSON a place holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Anything: free JSON, quantities.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

/// How the elements of a list are told apart in server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    /// By the values of these fields.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a list or map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PatchStrategy {
    pub(crate) merge: bool,
    pub(crate) retain_keys: bool,
    pub(crate) key: Option<String>,
}

impl TypeRef {
    pub(crate) fn get(&self) -> Type<'_> {
        Type { arena: &self.arena, node: &self.arena.nodes[self.id] }
    }
}

impl<'a> Type<'a> {
    fn of(self, id: usize) -> Self {
        Type { arena: self.arena, node: &self.arena.nodes[id] }
    }

    /// The type of a field, by name or as a map's value.
    pub(crate) fn field(self, name: &str) -> Option<Type<'a>> {
        self.property(name).or_else(|| self.values())
    }

    pub(crate) fn property(self, name: &str) -> Option<Type<'a>> {
        self.node.properties.get(name).map(|&id| self.of(id))
    }

    /// The type of a map's values.
    pub(crate) fn values(self) -> Option<Type<'a>> {
        self.node.additional.map(|id| self.of(id))
    }

    /// The type of a list's elements.
    pub(crate) fn items(self) -> Option<Type<'a>> {
        self.node.items.map(|id| self.of(id))
    }

    pub(crate) fn properties(self) -> impl Iterator<Item = (&'a str, Type<'a>)> {
        self.node.properties.iter().map(move |(name, &id)| (name.as_str(), self.of(id)))
    }

    fn alternatives(self, ids: &'a [usize]) -> impl Iterator<Item = Type<'a>> {
        ids.iter().map(move |&id| self.of(id))
    }
}

struct Builtin {
    arena: Arc<Arena>,
    names: HashMap<String, usize>,
    kinds: HashMap<(String, String, String), usize>,
}

impl Builtin {
    fn load() -> Self {
        let mut builder = parse::Builder::new();
        let mut kinds = HashMap::new();
        for (name, definition) in DEFINITIONS.as_object().into_iter().flatten() {
            let id = builder.named(name);
            for gvk in
                definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten()
            {
                let part = |field: &str| gvk[field].as_str().unwrap_or_default().to_owned();
                kinds.insert((part("group"), part("version"), part("kind")), id);
            }
        }
        let (arena, names) = builder.finish();
        Self { arena, names, kinds }
    }
}

/// The type of a built-in kind; a kind without a definition accepts anything.
pub(crate) fn builtin_kind(group: &str, version: &str, kind: &str) -> TypeRef {
    let path = (group.to_owned(), version.to_owned(), kind.to_owned());
    match BUILTIN.kinds.get(&path) {
        Some(&id) => TypeRef { arena: BUILTIN.arena.clone(), id },
        None => custom_kind(&Value::Null),
    }
}

/// A named built-in definition.
pub(crate) fn builtin_definition(name: &str) -> Option<TypeRef> {
    let id = *BUILTIN.names.get(name)?;
    Some(TypeRef { arena: BUILTIN.arena.clone(), id })
}

/// The type that a custom definition's `openAPIV3Schema` describes.
pub(crate) fn custom_kind(open_api: &Value) -> TypeRef {
    let mut builder = parse::Builder::new();
    let id = builder.custom_root(open_api);
    let (arena, _) = builder.finish();
    TypeRef { arena, id }
}

#[cfg(test)]
mod tests;
