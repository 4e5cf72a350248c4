//! # Watched kinds
//!
//! Job: feed each watched kind into the index.
//! May touch: object types. Must not touch: the API server (`cluster` watches). Callers: `cluster`.

use crate::index::{
    DestinationIndex,
    pod::{OpaqueServer, Owner, PodInfo, owner, zone},
    service::{ServiceInfo, SliceInfo},
};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    batch::v1::Job,
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Resource, core::PartialObjectMeta};
use mesh_cluster::watch::Index;
use mesh_k8s::policy::Server;
use mesh_model::authority::ServiceName;
use std::collections::HashSet;

fn named(meta: &kube::core::ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn at(namespace: Option<&str>, name: &str) -> (String, String) {
    (namespace.unwrap_or_default().to_owned(), name.to_owned())
}

fn service_name((namespace, name): (String, String)) -> ServiceName {
    ServiceName { namespace, name }
}

/// A new list: what it lacks is deleted, the rest applied; views change where facts did.
macro_rules! reset {
    ($index:ident, $objects:ident, $names:ident, $key:expr, $set:ident) => {{
        let listed: HashSet<_> = $objects.iter().map(|o| $key(named(o.meta()))).collect();
        for gone in $index.$names().into_iter().filter(|name| !listed.contains(name)) {
            $index.$set(gone, None);
        }
        for object in $objects {
            $index.apply(object);
        }
    }};
}

impl Index<Service> for DestinationIndex {
    fn apply(&mut self, object: Service) {
        let name = service_name(named(object.meta()));
        self.set_service(name, Some(ServiceInfo::parse(&object)));
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.set_service(service_name(at(namespace, name)), None);
    }
    fn reset(&mut self, objects: Vec<Service>) {
        reset!(self, objects, service_names, service_name, set_service);
    }
}

impl Index<EndpointSlice> for DestinationIndex {
    fn apply(&mut self, object: EndpointSlice) {
        self.set_slice(named(object.meta()), SliceInfo::parse(&object));
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.set_slice(at(namespace, name), None);
    }
    fn reset(&mut self, objects: Vec<EndpointSlice>) {
        reset!(self, objects, slice_names, std::convert::identity, set_slice);
    }
}

impl Index<Pod> for DestinationIndex {
    fn apply(&mut self, object: Pod) {
        self.set_pod(named(object.meta()), Some(PodInfo::parse(&object)));
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.set_pod(at(namespace, name), None);
    }
    fn reset(&mut self, objects: Vec<Pod>) {
        reset!(self, objects, pod_names, std::convert::identity, set_pod);
    }
}

impl Index<Server> for DestinationIndex {
    fn apply(&mut self, object: Server) {
        self.set_server(named(object.meta()), OpaqueServer::parse(&object));
    }
    fn delete(&mut self, namespace: Option<&str>, name: &str) {
        self.set_server(at(namespace, name), None);
    }
    fn reset(&mut self, objects: Vec<Server>) {
        reset!(self, objects, server_names, std::convert::identity, set_server);
    }
}

impl Index<PartialObjectMeta<Node>> for DestinationIndex {
    fn apply(&mut self, object: PartialObjectMeta<Node>) {
        self.set_zone(named(&object.metadata).1, zone(&object.metadata));
    }
    fn delete(&mut self, _: Option<&str>, name: &str) {
        self.set_zone(name.to_owned(), None);
    }
    fn reset(&mut self, objects: Vec<PartialObjectMeta<Node>>) {
        let name = |(_, name): (String, String)| name;
        reset!(self, objects, node_names, name, set_zone);
    }
}

/// ReplicaSets and Jobs matter by their owners alone.
impl DestinationIndex {
    fn own(&mut self, kind: &str, meta: &kube::core::ObjectMeta) {
        let (namespace, name) = named(meta);
        self.set_owner(namespace, Owner { kind: kind.to_owned(), name }, owner(meta));
    }

    fn disown(&mut self, kind: &str, namespace: Option<&str>, name: &str) {
        let (namespace, name) = at(namespace, name);
        self.set_owner(namespace, Owner { kind: kind.to_owned(), name }, None);
    }

    fn reset_owners<'a>(
        &mut self,
        kind: &str,
        objects: impl Iterator<Item = &'a kube::core::ObjectMeta> + Clone,
    ) {
        let listed: HashSet<_> = objects.clone().map(named).collect();
        for (namespace, of) in self.owned(kind) {
            if !listed.contains(&(namespace.clone(), of.name.clone())) {
                self.set_owner(namespace, of, None);
            }
        }
        for meta in objects {
            self.own(kind, meta);
        }
    }
}

macro_rules! owner_kind {
    ($kind:ident) => {
        impl Index<PartialObjectMeta<$kind>> for DestinationIndex {
            fn apply(&mut self, object: PartialObjectMeta<$kind>) {
                self.own(stringify!($kind), &object.metadata);
            }
            fn delete(&mut self, namespace: Option<&str>, name: &str) {
                self.disown(stringify!($kind), namespace, name);
            }
            fn reset(&mut self, objects: Vec<PartialObjectMeta<$kind>>) {
                self.reset_owners(stringify!($kind), objects.iter().map(|o| &o.metadata));
            }
        }
    };
}

owner_kind!(ReplicaSet);
owner_kind!(Job);
