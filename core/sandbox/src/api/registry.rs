//! # What is served
//!
//! Job: the table of resources: built-in kinds and, at once with every change of a CustomResourceDefinition, the
//! versions that it serves.
//! May touch: schemas. Must not touch: objects of the kinds, requests.
//! Callers: discovery, request handling.

mod builtin;
mod custom;

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use serde_json::Value;

pub(crate) use self::custom::PrinterColumn;
use super::kinds::Strategy;
use crate::schema::TypeRef;

/// One resource in one served version.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// The store's table; two resources may share one (events).
    pub(crate) table: String,
    /// Version that objects are kept in.
    pub(crate) storage_version: String,
    pub(crate) verbs: Verbs,
    pub(crate) subresources: Vec<Subresource>,
    pub(crate) schema: TypeRef,
    pub(crate) strategy: &'static Strategy,
    /// Sentence for those who use this version.
    pub(crate) deprecation: Option<String>,
    pub(crate) custom: Option<CustomFacts>,
}

/// What a resource can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbs {
    /// Stored objects with every verb.
    All,
    /// A question answered at once, nothing stored (reviews).
    CreateOnly,
}

/// A part of an object with its own path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subresource {
    Status,
    Scale,
    Log,
    Token,
    Finalize,
    Binding,
    Eviction,
}

impl Subresource {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "status" => Self::Status,
            "scale" => Self::Scale,
            "log" => Self::Log,
            "token" => Self::Token,
            "finalize" => Self::Finalize,
            "binding" => Self::Binding,
            "eviction" => Self::Eviction,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Token => "token",
            Self::Finalize => "finalize",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
        }
    }
}

/// What only custom resources have.
#[derive(Debug)]
pub(crate) struct CustomFacts {
    pub(crate) columns: Vec<PrinterColumn>,
    /// JSON paths of the scale subresource: spec, status, selector.
    pub(crate) scale: Option<[String; 3]>,
    /// The schema as the definition gives it, for OpenAPI.
    pub(crate) open_api: Value,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    pub(crate) fn builtin(&self) -> bool {
        self.custom.is_none()
    }
}

/// All served resources.
#[derive(Debug)]
pub(crate) struct Registry {
    served: RwLock<Arc<Served>>,
    builtin: Vec<Arc<Resource>>,
}

/// One state of the registry.
#[derive(Debug)]
pub(crate) struct Served {
    /// In order: core first, then built-in groups, then custom ones by name.
    pub(crate) all: Vec<Arc<Resource>>,
    by_path: HashMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let builtin = builtin::resources();
        Self { served: RwLock::new(Arc::new(Served::new(builtin.clone()))), builtin }
    }

    pub(crate) fn served(&self) -> Arc<Served> {
        self.served.read().clone()
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let path = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.served.read().by_path.get(&path).cloned()
    }

    /// Rebuilds the custom part from the definitions that exist now.
    pub(crate) fn set_definitions<'a>(&self, definitions: impl IntoIterator<Item = &'a Value>) {
        let mut custom: Vec<_> = definitions.into_iter().flat_map(custom::resources).collect();
        custom.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        let all = self.builtin.iter().cloned().chain(custom.into_iter().map(Arc::new)).collect();
        *self.served.write() = Arc::new(Served::new(all));
    }
}

impl Served {
    fn new(all: Vec<Arc<Resource>>) -> Self {
        let by_path = all
            .iter()
            .map(|r| ((r.group.clone(), r.version.clone(), r.plural.clone()), r.clone()))
            .collect();
        Self { all, by_path }
    }

    /// Groups with their versions, the preferred first, in serving order; the core group is "".
    pub(crate) fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.all {
            match groups.iter_mut().find(|(group, _)| *group == resource.group) {
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version.clone()),
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|v| std::cmp::Reverse(custom::version_order(v)));
        }
        groups
    }

    /// The resources of one group and version.
    pub(crate) fn of<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.all.iter().filter(move |r| r.group == group && r.version == version)
    }
}
