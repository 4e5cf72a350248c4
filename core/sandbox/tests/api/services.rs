//! # Services
//!
//! Job: addresses, ports, defaults, rules. May touch: the subject. Must not touch: its inside. Callers: cargo test.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::subject::{MERGE, Subject};

const SERVICES: &str = "/api/v1/namespaces/NS/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

// proves: API-6
#[tokio::test]
async fn every_service_has_an_address_of_its_own() {
    let subject = Subject::new().await;
    let mut seen = HashSet::new();
    for n in 0..20 {
        let body = service(&format!("s{n}"), json!({"ports": [{"port": 80}]}));
        let made = subject.post(SERVICES, body).await.ok();
        let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
        assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
        assert!(seen.insert(ip));
    }
    let message = {
        let taken = seen.iter().next().expect("an address");
        let body = service("t", json!({"clusterIP": taken, "ports": [{"port": 80}]}));
        subject.post(SERVICES, body).await.refused(422, "Invalid")
    };
    assert!(message.contains("provided IP is already allocated"), "{message}");
    let body = service("t", json!({"clusterIP": "1.2.3.4", "ports": [{"port": 80}]}));
    let message = subject.post(SERVICES, body).await.refused(422, "Invalid");
    assert!(
        message.contains(
            "failed to allocate IP 1.2.3.4: the provided network does not match the current range"
        ),
        "{message}"
    );
}

// proves: API-6
#[tokio::test]
async fn an_address_is_kept_for_life() {
    let subject = Subject::new().await;
    let made = subject.post(SERVICES, service("s", json!({"ports": [{"port": 80}]}))).await.ok();
    let path = format!("{SERVICES}/s");
    let patch = json!({"spec": {"clusterIP": "1.2.3.4"}});
    let message = subject.patch(&path, MERGE, patch).await.refused(422, "Invalid");
    assert!(message.contains("spec.clusterIPs[0]: Invalid value: "), "{message}");
    // A client that does not read before it writes leaves the address out.
    let put = subject.put(&path, service("s", json!({"ports": [{"port": 81}]}))).await.ok();
    assert_eq!(put["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

#[tokio::test]
async fn defaults_are_kubernetes_own() {
    let subject = Subject::new().await;
    let ports = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b", "targetPort": "web", "protocol": "UDP"}]);
    let made = subject.post(SERVICES, service("s", json!({"ports": ports}))).await.ok();
    let spec = &made["spec"];
    assert_eq!(
        spec["ports"],
        json!([
            {"port": 80, "name": "a", "protocol": "TCP", "targetPort": 80},
            {"port": 81, "name": "b", "targetPort": "web", "protocol": "UDP"}])
    );
    assert_eq!((&spec["type"], &spec["sessionAffinity"]), (&json!("ClusterIP"), &json!("None")));
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    assert!(made["metadata"].get("generation").is_none());
}

#[tokio::test]
async fn headless_external_and_load_balanced_services_differ() {
    let subject = Subject::new().await;
    let made = subject.post(SERVICES, service("h", json!({"clusterIP": "None"}))).await.ok();
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    let spec = json!({"type": "ExternalName", "externalName": "a.b"});
    let made = subject.post(SERVICES, service("e", spec)).await.ok();
    assert!(made["spec"].get("clusterIP").is_none());
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    let made = subject.post(SERVICES, service("l", spec)).await.ok();
    let node_port = made["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    assert!((30000..32768).contains(&node_port));
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
}

#[tokio::test]
async fn bad_ports_are_named() {
    let subject = Subject::new().await;
    let ports = json!([{"port": 0}, {"port": 80, "name": "A_B"}, {"port": 81, "name": "x"}, {"port": 82, "name": "x"}]);
    let message =
        subject.post(SERVICES, service("s", json!({"ports": ports}))).await.refused(422, "Invalid");
    for part in [
        "spec.ports[0].name: Required value",
        "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        "spec.ports[1].name: Invalid value: \"A_B\": a lowercase RFC 1123 label must consist of",
        "spec.ports[3].name: Duplicate value: \"x\"",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
    let message = subject.post(SERVICES, service("s", json!({}))).await.refused(422, "Invalid");
    assert_eq!(message, "Service \"s\" is invalid: spec.ports: Required value");
    let body = service("9s", json!({"ports": [{"port": 1}]}));
    let message = subject.post(SERVICES, body).await.refused(422, "Invalid");
    assert!(message.contains("a DNS-1035 label must consist of"), "{message}");
}
