//! # Endpoints and slices of small examples
//!
//! Job: the rules of Kubernetes' three endpoint controllers, one example each.
//! May touch: values. Must not touch: the API. Callers: the test harness.

use super::*;
use serde_json::json;

fn service(spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "echo", "namespace": "demo", "uid": "s1", "labels": {"team": "a"}},
        "spec": spec,
    }))
    .unwrap()
}

fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "demo", "uid": name, "labels": {"app": "echo"}},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": ip, "phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap(),
    )
}

fn named() -> Service {
    service(
        json!({"selector": {"app": "echo"}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]}),
    )
}

#[test]
fn ready_and_unready_pods_with_named_target_ports() {
    let pods = [pod("a", "127.9.1.1", true), pod("b", "127.9.1.2", false)];
    let service = named();
    let members = backends(&service, pods.iter());
    let endpoints = endpoints(&service, &members);
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "127.9.1.1");
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "127.9.1.2");
    assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
    assert_eq!(endpoints.labels()["team"], "a", "labels of the Service are on its Endpoints");
    let slices = service_slices(&service, &members);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].labels()[SERVICE_NAME], "echo");
    let ready: Vec<_> =
        slices[0].endpoints.iter().map(|e| e.conditions.as_ref().unwrap().ready).collect();
    assert_eq!(ready, [Some(true), Some(false)]);
}

#[test]
fn unready_addresses_are_published_on_demand() {
    let service = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true,
        "selector": {"app": "echo"}, "ports": [{"port": 80}]}));
    let pods = [pod("b", "127.9.1.2", false)];
    let members = backends(&service, pods.iter());
    let endpoints = endpoints(&service, &members);
    assert!(endpoints.subsets.unwrap()[0].addresses.is_some());
    assert!(endpoints.metadata.labels.unwrap().contains_key(HEADLESS));
}

#[test]
fn a_hand_written_endpoints_object_is_mirrored() {
    let endpoints: Endpoints = serde_json::from_value(json!({
        "metadata": {"name": "echo-east", "namespace": "demo", "uid": "e1",
            "labels": {"mirror.linkerd.io/cluster-name": "east"},
            "annotations": {"mirror.linkerd.io/remote-gateway-identity": "gw", LAST_APPLIED: "x"}},
        "subsets": [{"addresses": [{"ip": "127.9.200.1"}], "ports": [{"name": "http", "port": 4143}]}],
    }))
    .unwrap();
    let slices = mirrored_slices(&endpoints);
    assert_eq!(slices.len(), 1);
    let slice = &slices[0];
    assert_eq!(slice.labels()[MANAGED_BY], MIRRORING);
    assert_eq!(slice.labels()["mirror.linkerd.io/cluster-name"], "east");
    assert_eq!(slice.annotations().len(), 1);
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(4143));
    assert_eq!(slice.owner_references()[0].kind, "Endpoints");
}

#[test]
fn slices_are_reused_and_equal_ones_not_written() {
    let pods = [pod("a", "127.9.1.1", true)];
    let service = named();
    let members = backends(&service, pods.iter());
    let mut have = service_slices(&service, &members).remove(0);
    have.metadata.name = Some("echo-x".into());
    have.metadata.resource_version = Some("7".into());
    let have = Arc::new(have);
    let same = slice_plan(&[&have], service_slices(&service, &members));
    assert!(same.create.is_empty() && same.replace.is_empty() && same.delete.is_empty());
    let changed = slice_plan(&[&have], service_slices(&service, &[]));
    assert_eq!(changed.replace.len(), 1);
    assert_eq!(changed.replace[0].name_any(), "echo-x");
    let gone = slice_plan(&[&have], Vec::new());
    assert_eq!(gone.delete, ["echo-x"]);
}

#[test]
fn pods_with_different_ports_are_different_subsets() {
    let mut other = (*pod("b", "127.9.1.2", true)).clone();
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    let pods = [pod("a", "127.9.1.1", true), Arc::new(other)];
    let service = named();
    let members = backends(&service, pods.iter());
    assert_eq!(endpoints(&service, &members).subsets.unwrap().len(), 2);
    assert_eq!(service_slices(&service, &members).len(), 2);
}
