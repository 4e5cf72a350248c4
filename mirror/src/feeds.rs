//! # Feeds
//!
//! Job: hand what watches tell to the index, one small type a watch.
//! May touch: the index. Must not touch: the network. Callers: `lib.rs` (local), `remote.rs` (remote).

use crate::index::{Key, World};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use kube::ResourceExt;
use mesh_cluster::watch::Index;
use parking_lot::Mutex;
use std::sync::Arc;

pub(crate) type Shared = Arc<Mutex<World>>;

/// Local Services with the mirror label.
pub(crate) struct LocalServices(pub(crate) Shared);
/// Local Endpoints with the mirror label.
pub(crate) struct LocalEndpoints(pub(crate) Shared);
/// Local Namespaces.
pub(crate) struct LocalNamespaces(pub(crate) Shared);
/// Services of the exporting cluster of the named Link.
pub(crate) struct RemoteServices(pub(crate) Shared, pub(crate) String);
/// Endpoints of the exporting cluster of the named Link.
pub(crate) struct RemoteEndpoints(pub(crate) Shared, pub(crate) String);

fn key(namespace: Option<&str>, name: &str) -> Key {
    Key::new(namespace.unwrap_or_default(), name)
}

impl Index<Service> for LocalServices {
    fn apply(&mut self, object: Service) {
        self.0.lock().local_service(object);
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.0.lock().local_service_gone(&key(namespace, name));
    }
    fn reset(&mut self, objects: Vec<Service>) {
        self.0.lock().local_services(objects);
    }
}

impl Index<Endpoints> for LocalEndpoints {
    fn apply(&mut self, object: Endpoints) {
        self.0.lock().local_endpoints(object);
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.0.lock().local_endpoints_gone(&key(namespace, name));
    }
    fn reset(&mut self, objects: Vec<Endpoints>) {
        self.0.lock().local_endpoints_all(objects);
    }
}

/// A namespace that is being deleted takes no new objects.
fn usable(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

impl Index<Namespace> for LocalNamespaces {
    fn apply(&mut self, object: Namespace) {
        self.0.lock().namespace(&object.name_any(), usable(&object));
    }
    fn delete(&mut self, _: Option<&str>, name: &str) {
        self.0.lock().namespace(name, false);
    }
    fn reset(&mut self, objects: Vec<Namespace>) {
        let all = objects.iter().filter(|n| usable(n)).map(ResourceExt::name_any).collect();
        self.0.lock().namespaces(all);
    }
}

impl Index<Service> for RemoteServices {
    fn apply(&mut self, object: Service) {
        self.0.lock().remote_service(&self.1, object);
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.0.lock().remote_service_gone(&self.1, key(namespace, name));
    }
    fn reset(&mut self, objects: Vec<Service>) {
        self.0.lock().remote_services(&self.1, objects);
    }
}

/// Only ready addresses count: a Service whose Pods are all starting serves nobody.
fn served(endpoints: &Endpoints) -> bool {
    endpoints.subsets.iter().flatten().any(|s| s.addresses.as_ref().is_some_and(|a| !a.is_empty()))
}

impl Index<Endpoints> for RemoteEndpoints {
    fn apply(&mut self, object: Endpoints) {
        self.0.lock().remote_endpoints(&self.1, Key::of(&object), served(&object));
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.0.lock().remote_endpoints(&self.1, key(namespace, name), false);
    }
    fn reset(&mut self, objects: Vec<Endpoints>) {
        let all = objects.iter().filter(|e| served(e)).map(Key::of).collect();
        self.0.lock().remote_endpoints_all(&self.1, all);
    }
}
