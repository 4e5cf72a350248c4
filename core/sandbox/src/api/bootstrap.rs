//! # What every cluster has
//!
//! Job: creates the namespaces, the Service `default/kubernetes` and the roles that a fresh cluster comes with, if absent.
//! May touch: the store, writing. Must not touch: objects that exist.
//! Callers: `api` at start.

use serde_json::{Value, json};

use super::{
    kinds::new_uid,
    object::{map_of, meta, meta_mut, now},
    shared::Shared,
};
use crate::store::Key;

const RBAC: &str = "rbac.authorization.k8s.io";
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(crate) fn create_default_objects(shared: &Shared) {
    for name in NAMESPACES {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            "spec": {"finalizers": ["kubernetes"]}});
        add(shared, "/namespaces", "namespaces", namespace);
    }
    let roles: Vec<Value> = serde_json::from_str(include_str!("bootstrap/roles.json"))
        .expect("the file of roles is part of the program, and a test reads it");
    for object in roles {
        let plural = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
        add(shared, &format!("{RBAC}/{plural}"), &plural, object);
    }
    add_kubernetes_service(shared);
}

/// The API server as a Service: address, and where it really listens.
fn add_kubernetes_service(shared: &Shared) {
    let ip =
        std::net::Ipv4Addr::from(u32::from(shared.config.service_cidr.network()) + 1).to_string();
    let metadata = json!({
        "name": "kubernetes", "namespace": "default",
        "labels": {"component": "apiserver", "provider": "kubernetes"}});
    let (host, port) = (shared.addr.ip().to_string(), shared.addr.port());
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]},
    });
    add(shared, "/services", "services", service);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": host}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    put(shared, "/endpoints", "endpoints", endpoints);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put(shared, "discovery.k8s.io/endpointslices", "endpointslices", slice);
}

/// Replaces an object: the address may be another after a restart.
fn put(shared: &Shared, table: &str, plural: &str, object: Value) {
    let key = Key::new(meta(&object, "namespace"), meta(&object, "name"));
    if let Some(old) = shared.store.get(table, &key) {
        let mut new = old.value.clone();
        for (field, value) in object.as_object().into_iter().flatten() {
            if field != "metadata" {
                map_of(&mut new).insert(field.clone(), value.clone());
            }
        }
        if new != old.value && shared.store.replace(table, key, old.revision, new).is_err() {
            tracing::warn!(table, "the API server's endpoints could not be updated");
        }
        return;
    }
    add(shared, table, plural, object);
}

fn add(shared: &Shared, table: &str, plural: &str, mut object: Value) {
    let (group, version) = match object["apiVersion"].as_str().unwrap_or_default().split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), "v1".to_owned()),
    };
    let key = Key::new(meta(&object, "namespace"), meta(&object, "name"));
    let Some(resource) = shared.registry.find(&group, &version, plural) else { return };
    (resource.strategy.default)(map_of(&mut object));
    let metadata = meta_mut(&mut object);
    metadata.insert("uid".into(), new_uid().into());
    metadata.insert("creationTimestamp".into(), now().into());
    // An object that is there already stays as it is.
    shared.store.create(table, key, object);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_roles_parses_and_binds_only_roles_it_has() {
        let roles: Vec<Value> =
            serde_json::from_str(include_str!("bootstrap/roles.json")).expect("valid JSON");
        for binding in roles.iter().filter(|r| r["kind"] == "ClusterRoleBinding") {
            let wanted = &binding["roleRef"]["name"];
            assert!(
                roles
                    .iter()
                    .any(|r| r["kind"] == "ClusterRole" && r["metadata"]["name"] == *wanted),
                "{wanted}"
            );
        }
    }
}
