//! # Namespaces
//!
//! Job: the annotations of every Namespace, as the watch tells them.
//! May touch: nothing; pure. Callers: `serve` feeds it, `webhook` reads it.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;
use mesh_cluster::watch::Index;
use serde_json::Value;

/// Annotations by Namespace.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(HashMap<String, Arc<Value>>);

impl Namespaces {
    /// The annotations of a Namespace, as a map; none if it is not known (yet).
    pub(crate) fn annotations(&self, name: &str) -> Option<Arc<Value>> {
        self.0.get(name).cloned()
    }
}

/// The annotations of a Namespace as a map.
pub(crate) fn annotations(namespace: &Namespace) -> Value {
    let annotations = namespace.metadata.annotations.iter().flatten();
    Value::Object(annotations.map(|(k, v)| (k.clone(), v.as_str().into())).collect())
}

impl Index<Namespace> for Namespaces {
    fn apply(&mut self, object: Namespace) {
        let annotations = Arc::new(annotations(&object));
        self.0.insert(object.metadata.name.unwrap_or_default(), annotations);
    }

    fn delete(&mut self, _: Option<&str>, name: &str) {
        self.0.remove(name);
    }

    fn reset(&mut self, objects: Vec<Namespace>) {
        self.0.clear();
        objects.into_iter().for_each(|object| self.apply(object));
    }
}
