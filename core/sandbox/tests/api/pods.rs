//! # Pods
//!
//! Job: admission, defaults, graceful end, logs. May touch: the subject; the sandbox's log folder.
//! Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{JSON, MERGE, Subject};

const PODS: &str = "/api/v1/namespaces/NS/pods";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "x:1"}]}})
}

async fn subject() -> Subject {
    let subject = Subject::new().await;
    // Where a controller runs it has made the account already.
    let body = json!({"metadata": {"name": "default"}});
    let made = subject.post("/api/v1/namespaces/NS/serviceaccounts", body).await;
    assert!(matches!(made.code, 201 | 409), "{made:?}");
    subject
}

#[tokio::test]
async fn a_pod_needs_its_account_and_gets_its_token() {
    let subject = subject().await;
    let mut body = pod("p");
    body["spec"]["serviceAccountName"] = "missing".into();
    let message = subject.post(PODS, body).await.refused(403, "Forbidden");
    let expected = "pods \"p\" is forbidden: error looking up service account NS/missing: serviceaccount \
        \"missing\" not found";
    assert_eq!(message, subject.path(expected));
    let made = subject.post(PODS, pod("p")).await.ok();
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["restartPolicy"]),
        (&json!("default"), &json!("Always"))
    );
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(
        sources[0]["serviceAccountToken"],
        json!({"expirationSeconds": 3607, "path": "token"})
    );
    assert_eq!(
        (&made["status"]["phase"], &made["status"]["qosClass"]),
        (&json!("Pending"), &json!("BestEffort"))
    );
}

#[tokio::test]
async fn little_of_a_pod_can_change() {
    let subject = subject().await;
    subject.post(PODS, pod("p")).await.ok();
    let path = format!("{PODS}/p");
    let image = json!({"spec": {"containers": [{"name": "a", "image": "x:2"}]}});
    let patched = subject.patch(&path, super::subject::STRATEGIC, image).await.ok();
    assert_eq!(patched["spec"]["containers"][0]["image"], "x:2");
    let message = subject
        .patch(&path, MERGE, json!({"spec": {"restartPolicy": "Never"}}))
        .await
        .refused(422, "Invalid");
    assert!(
        message.contains("spec: Forbidden: pod updates may not change fields other than"),
        "{message}"
    );
    let mut bad = pod("q");
    bad["spec"]["containers"] =
        json!([{"name": "a", "image": "x"}, {"name": "a", "image": "y"}, {"name": "B_"}]);
    let message = subject.post(PODS, bad).await.refused(422, "Invalid");
    assert!(message.contains("spec.containers[1].name: Duplicate value: \"a\""), "{message}");
    assert!(message.contains("spec.containers[2].image: Required value"), "{message}");
}

#[tokio::test]
async fn a_running_pod_ends_gracefully() {
    let subject = subject().await;
    subject.post(PODS, pod("unbound")).await.ok();
    subject.delete(&format!("{PODS}/unbound")).await.ok();
    subject.get(&format!("{PODS}/unbound")).await.refused(404, "NotFound");
    subject.post(PODS, pod("p")).await.ok();
    let path = format!("{PODS}/p");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    subject.post(&format!("{path}/binding"), binding).await.ok();
    assert_eq!(subject.get(&path).await.ok()["spec"]["nodeName"], "n1");
    let by_node = subject.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.ok();
    assert_eq!(by_node["items"].as_array().map(Vec::len), Some(1));
    let ending = subject.delete(&path).await.ok();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    subject.get(&path).await.ok();
    let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    subject.call(http::Method::DELETE, &path, JSON, Some(now)).await.ok();
    subject.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn logs_are_read_tailed_and_followed() {
    let subject = subject().await;
    let Some(sandbox) = &subject.sandbox else {
        // A real server asks the node's kubelet, which this subject does not have.
        return;
    };
    let made = subject.post(PODS, pod("p")).await.ok();
    let path = format!("{PODS}/p/log");
    let message = subject.get(&path).await.refused(400, "BadRequest");
    assert_eq!(message, "container \"a\" in pod \"p\" is waiting to start: ContainerCreating");
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let folder = format!("data/pods/{}_p_{uid}", subject.namespace);
    let folder = sandbox.folder.path().join(folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("a.log"), "one\ntwo\nthree\n").expect("a log");
    let accept = [("accept", "application/json, */*")];
    assert_eq!(subject.get_with(&path, &accept).await.ok(), "one\ntwo\nthree\n");
    assert_eq!(
        subject.get_with(&format!("{path}?tailLines=2"), &accept).await.ok(),
        "two\nthree\n"
    );
    let status = json!({"status": {"containerStatuses": [{"name": "a", "image": "x", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}});
    subject.patch(&format!("{PODS}/p/status"), MERGE, status).await.ok();
    // The container is over, so following ends.
    let followed = subject.get_with(&format!("{path}?follow=true&tailLines=1"), &accept).await.ok();
    assert_eq!(followed, "three\n");
    let message = subject.get(&format!("{path}?container=zz")).await.refused(400, "BadRequest");
    assert_eq!(message, "container zz is not valid for pod p");
}
