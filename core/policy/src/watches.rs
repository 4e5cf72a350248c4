//! # Watched kinds
//!
//! Job: feed each watched kind into its index.
//! May touch: object types. Must not touch: the API server (`cluster` watches). Callers: `cluster`.

use crate::index::{
    ObjectName,
    inbound::{
        InboundIndex, authorization::PolicyInfo, authorization::networks, server::ServerInfo,
        workload::Workload,
    },
    outbound::{OutboundIndex, ServiceInfo},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Resource;
use mesh_cluster::watch::Index;
use mesh_k8s::policy::{AuthorizationPolicy, MeshTLSAuthentication, NetworkAuthentication, Server};
use mesh_model::authority::ServiceName;
use std::collections::HashSet;

fn named(meta: &kube::core::ObjectMeta) -> ObjectName {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn at(namespace: Option<&str>, name: &str) -> ObjectName {
    (namespace.unwrap_or_default().to_owned(), name.to_owned())
}

fn service_name((namespace, name): ObjectName) -> ServiceName {
    ServiceName { namespace, name }
}

/// Applies, deletes and resets of one kind: a setter that takes a name and a value or nothing, the names
/// known now, and the parser of an object.
macro_rules! fed_by {
    ($index:ty, $kind:ty, $names:ident, $set:ident, $name:expr, $parse:expr) => {
        impl Index<$kind> for $index {
            fn apply(&mut self, object: $kind) {
                self.$set($name(named(object.meta())), $parse(&object));
            }
            fn delete(&mut self, namespace: Option<&str>, name: &str) {
                self.$set($name(at(namespace, name)), None);
            }
            fn reset(&mut self, objects: Vec<$kind>) {
                let listed: HashSet<_> = objects.iter().map(|o| $name(named(o.meta()))).collect();
                for gone in self.$names().into_iter().filter(|name| !listed.contains(name)) {
                    self.$set(gone, None);
                }
                for object in objects {
                    self.apply(object);
                }
            }
        }
    };
}

use std::convert::identity as same;

// Where the parser can fail, its `None` takes the object out, as a deletion does: a Pod that leaves the mesh.
fed_by!(InboundIndex, Pod, workload_names, set_workload, same, Workload::parse);
fed_by!(InboundIndex, Server, server_names, set_server, same, |o| Some(ServerInfo::parse(o)));
fed_by!(InboundIndex, AuthorizationPolicy, policy_names, set_policy, same, |o| Some(
    PolicyInfo::parse(o)
));
// What identities are depends on the trust domain, which the index knows and this file does not: it parses.
fed_by!(InboundIndex, MeshTLSAuthentication, mesh_names, set_mesh_authentication, same, Some);
fed_by!(
    InboundIndex,
    NetworkAuthentication,
    network_names,
    set_network_authentication,
    same,
    |o| Some(networks(o))
);
fed_by!(OutboundIndex, Service, service_names, set_service, service_name, |o| Some(
    ServiceInfo::parse(o)
));
