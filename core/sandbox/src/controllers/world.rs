//! # World
//!
//! Job: what the controllers know of the cluster: one store a kind, fed by watches and by the answers to
//! the controllers' own writes, so that a controller never acts twice because a watch is a moment behind.
//! May touch: memory. Must not touch: the API, the clock. Callers: the controllers.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{Resource, ResourceExt};

use crate::feed::Change;

/// Namespace (empty for cluster-scoped kinds) and name.
pub(crate) type ObjectKey = (String, String);

/// Everything known.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) accounts: Store<ServiceAccount>,
    pub(crate) config_maps: Store<ConfigMap>,
    pub(crate) nodes: Store<Node>,
    pub(crate) pods: Store<Pod>,
    pub(crate) services: Store<Service>,
    pub(crate) endpoints: Store<Endpoints>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) replica_sets: Store<ReplicaSet>,
    /// Service UID -> address given out, also while the write of it is on its way.
    pub(crate) balancers: BTreeMap<String, std::net::Ipv4Addr>,
}

impl World {
    /// Whether objects may be created in `namespace`.
    pub(crate) fn is_open(&self, namespace: &str) -> bool {
        self.namespaces.get("", namespace).is_some_and(|n| n.metadata.deletion_timestamp.is_none())
    }
}

/// The objects of one kind.
pub(crate) struct Store<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    gone: VecDeque<String>,
    gone_set: HashSet<String>,
}

/// How many UIDs of deleted objects are remembered, to drop late answers about them.
const GONE_LIMIT: usize = 512;

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), gone: VecDeque::new(), gone_set: HashSet::new() }
    }
}

impl<K: Resource> Store<K> {
    /// The object of that name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a namespace, by name.
    pub(crate) fn within<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((ns, _), _)| ns == namespace)
            .map(|(_, object)| object)
    }

    /// All objects.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// Takes in a newer state of an object; older news are ignored. Gives the objects that are concerned.
    pub(crate) fn put(&mut self, object: K) -> Vec<Arc<K>> {
        if object.meta().uid.as_ref().is_some_and(|uid| self.gone_set.contains(uid)) {
            return Vec::new();
        }
        let key = key_of(&object);
        let old = self.objects.get(&key);
        if let Some(old) = old
            && old.meta().uid == object.meta().uid
            && version(old.as_ref()) >= version(&object)
            && version(&object) != 0
        {
            return Vec::new();
        }
        let object = Arc::new(object);
        let old = self.objects.insert(key, object.clone());
        old.into_iter().chain([object]).collect()
    }

    /// Forgets an object, unless a successor of the same name is known already.
    pub(crate) fn remove(&mut self, object: &K) -> Vec<Arc<K>> {
        let key = key_of(object);
        if let Some(uid) = object.uid() {
            self.bury(uid);
        }
        match self.objects.get(&key) {
            Some(known) if known.meta().uid == object.meta().uid => {
                self.objects.remove(&key).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Replaces the whole view.
    pub(crate) fn replace(&mut self, objects: Vec<K>) -> Vec<Arc<K>> {
        let old = std::mem::take(&mut self.objects);
        self.objects = objects.into_iter().map(|o| (key_of(&o), Arc::new(o))).collect();
        old.into_values().chain(self.objects.values().cloned()).collect()
    }

    /// Applies one change; gives every object, old or new, that is concerned.
    pub(crate) fn apply(&mut self, change: Change<K>) -> Vec<Arc<K>> {
        match change {
            Change::Apply(object) => self.put(object),
            Change::Delete(object) => self.remove(&object),
            Change::Replace(objects) => self.replace(objects),
        }
    }

    fn bury(&mut self, uid: String) {
        if self.gone_set.insert(uid.clone()) {
            self.gone.push_back(uid);
        }
        if self.gone.len() > GONE_LIMIT
            && let Some(oldest) = self.gone.pop_front()
        {
            self.gone_set.remove(&oldest);
        }
    }
}

/// Namespace and name of an object.
pub(crate) fn key_of<K: Resource>(object: &K) -> ObjectKey {
    (
        object.meta().namespace.clone().unwrap_or_default(),
        object.meta().name.clone().unwrap_or_default(),
    )
}

/// The sandbox's resource versions are numbers; 0 if there is none.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The UID of the controller among the owners, if it is of `kind`.
pub(crate) fn controller_of<K: Resource>(object: &K, kind: &str) -> Option<(String, String)> {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true) && owner.kind == kind)
        .map(|owner| (owner.name.clone(), owner.uid.clone()))
}

/// Whether `labels` have every pair of `selector`.
pub(crate) fn selects(
    selector: &BTreeMap<String, String>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::ObjectMeta;

    fn pod(name: &str, uid: &str, version: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn late_news_do_not_bring_back_the_past() {
        let mut store = Store::default();
        assert_eq!(store.put(pod("a", "1", "10")).len(), 1);
        assert!(store.put(pod("a", "1", "9")).is_empty());
        assert_eq!(store.put(pod("a", "1", "11")).len(), 2);
        store.remove(&pod("a", "1", "12"));
        assert!(store.put(pod("a", "1", "11")).is_empty(), "a late answer about a deleted object");
        assert_eq!(store.put(pod("a", "2", "13")).len(), 1);
        assert!(store.remove(&pod("a", "1", "12")).is_empty(), "the successor stays");
        assert_eq!(store.all().count(), 1);
    }

    #[test]
    fn a_namespace_is_a_range() {
        let mut store = Store::default();
        store.put(pod("a", "1", "1"));
        let mut other = pod("b", "2", "1");
        other.metadata.namespace = Some("ns2".into());
        store.put(other);
        assert_eq!(store.within("ns").count(), 1);
        assert_eq!(store.within("n").count(), 0);
    }
}
