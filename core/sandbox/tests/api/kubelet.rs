//! # What a kubelet writes
//!
//! Job: status beside spec: strategic merges by key, generations, bindings, the end of a Pod. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use http::Method;
use serde_json::{Value, json};

use super::{
    patch::deployment,
    subject::{JSON, MERGE, STRATEGIC, Subject},
};

const PODS: &str = "/api/v1/namespaces/NS/pods";
const POD: &str = "/api/v1/namespaces/NS/pods/p";
const STATUS: &str = "/api/v1/namespaces/NS/pods/p/status?fieldManager=kubelet";

/// A Pod `p` with the containers `a` and `b`, bound to a node.
async fn bound() -> (Subject, Value) {
    let subject = Subject::new().await;
    // Where a controller runs it has made the account already.
    let account = json!({"metadata": {"name": "default"}});
    subject.post("/api/v1/namespaces/NS/serviceaccounts", account).await;
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]}});
    subject.post(PODS, body).await.ok();
    subject.post(&format!("{POD}/binding"), binding("n1")).await.ok();
    let pod = subject.get(POD).await.ok();
    (subject, pod)
}

fn binding(node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}})
}

/// Type and status of each condition, in their order.
fn conditions(object: &Value) -> Vec<(&str, &str)> {
    let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions
        .iter()
        .map(|c| (c["type"].as_str().unwrap_or(""), c["status"].as_str().unwrap_or("")))
        .collect()
}

#[tokio::test]
async fn a_binding_gives_a_node_and_a_condition_once() {
    let (subject, pod) = bound().await;
    assert_eq!(
        (&pod["spec"]["nodeName"], &pod["metadata"]["generation"]),
        (&json!("n1"), &json!(1))
    );
    assert_eq!(conditions(&pod), [("PodScheduled", "True")]);
    let message =
        subject.post(&format!("{POD}/binding"), binding("n2")).await.refused(409, "Conflict");
    let expected = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"";
    assert_eq!(message, expected);
}

#[tokio::test]
async fn status_lists_merge_by_key_and_leave_the_spec() {
    let (subject, pod) = bound().await;
    let order = json!([{"type": "Initialized"}, {"type": "Ready"}, {"type": "PodScheduled"}]);
    let waiting = json!({"name": "a", "image": "x:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}});
    let patch = json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {
        "$setElementOrder/conditions": order,
        "conditions": [{"type": "Initialized", "status": "True"},
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [waiting], "hostIP": "10.0.0.1"}});
    let pod = subject.patch(STATUS, STRATEGIC, patch).await.ok();
    let expected = [("Initialized", "True"), ("Ready", "False"), ("PodScheduled", "True")];
    assert_eq!(conditions(&pod), expected);
    let running = |name: &str| {
        json!({"name": name, "image": "x:1", "imageID": "i", "ready": true, "restartCount": 0,
        "started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
    };
    // A null takes a field of an element away.
    let patch = json!({"spec": {"nodeName": "n2"}, "status": {
        "$setElementOrder/conditions": order, "conditions": [{"type": "Ready", "status": "True", "reason": null}],
        "containerStatuses": [running("a"), running("b")], "phase": "Running",
        "podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}]}});
    let pod = subject.patch(STATUS, STRATEGIC, patch).await.ok();
    let expected = [("Initialized", "True"), ("Ready", "True"), ("PodScheduled", "True")];
    assert_eq!(conditions(&pod), expected);
    let status = &pod["status"];
    assert!(status["conditions"][1].get("reason").is_none(), "{status}");
    assert_eq!(status["containerStatuses"].as_array().map(Vec::len), Some(2));
    assert_eq!((&status["phase"], &status["hostIP"]), (&json!("Running"), &json!("10.0.0.1")));
    assert_eq!(
        (&pod["spec"]["nodeName"], &pod["metadata"]["generation"]),
        (&json!("n1"), &json!(1))
    );
    let owners = pod["metadata"]["managedFields"].as_array().expect("owners");
    let kubelet = owners.iter().find(|e| e["manager"] == "kubelet").expect("an owner");
    assert_eq!(kubelet["subresource"], "status");
    let delete = json!({"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}});
    let pod = subject.patch(STATUS, STRATEGIC, delete).await.ok();
    assert_eq!(conditions(&pod), [("Initialized", "True"), ("PodScheduled", "True")]);
    // A merge patch knows no keys.
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let pod = subject.patch(STATUS, MERGE, patch).await.ok();
    assert_eq!(conditions(&pod), [("Ready", "False")]);
}

#[tokio::test]
async fn a_status_for_another_pod_of_the_name_is_refused() {
    let (subject, mut pod) = bound().await;
    let patch = json!({"metadata": {"uid": "other"}, "status": {"phase": "Running"}});
    let message = subject.patch(STATUS, STRATEGIC, patch).await.refused(422, "Invalid");
    let expected =
        "Pod \"p\" is invalid: metadata.uid: Invalid value: \"other\": field is immutable";
    assert_eq!(message, expected);
    pod["metadata"]["uid"] = "other".into();
    subject.put(&format!("{POD}/status"), pod).await.refused(409, "Conflict");
}

#[tokio::test]
async fn a_put_of_the_status_leaves_the_spec_and_the_other_way_round() {
    let (subject, mut pod) = bound().await;
    pod["status"]["phase"] = "Running".into();
    pod["spec"]["containers"][0]["image"] = "q".into();
    let mut put = subject.put(&format!("{POD}/status"), pod).await.ok();
    assert_eq!(
        (&put["status"]["phase"], &put["spec"]["containers"][0]["image"]),
        (&json!("Running"), &json!("x:1"))
    );
    put["status"]["phase"] = "Failed".into();
    put["spec"]["containers"][0]["image"] = "q".into();
    let put = subject.put(POD, put).await.ok();
    assert_eq!(
        (&put["status"]["phase"], &put["spec"]["containers"][0]["image"]),
        (&json!("Running"), &json!("q"))
    );
    assert_eq!(put["metadata"]["generation"], 2);
}

#[tokio::test]
async fn only_what_is_asked_for_counts_as_a_generation() {
    let subject = Subject::new().await;
    let path = "/apis/apps/v1/namespaces/NS/deployments";
    let mut body = deployment("d");
    body["spec"]["paused"] = true.into();
    body["spec"]["replicas"] = 0.into();
    subject.post(path, body).await.ok();
    let generation = |object: &Value| object["metadata"]["generation"].as_i64();
    let object = format!("{path}/d");
    let patch = json!({"metadata": {"labels": {"c": "d"}}});
    assert_eq!(generation(&subject.patch(&object, MERGE, patch).await.ok()), Some(1));
    let patch = json!({"spec": {"minReadySeconds": 1}});
    assert_eq!(generation(&subject.patch(&object, MERGE, patch).await.ok()), Some(2));
    let status = json!({"status": {"observedGeneration": 2, "conditions": [{"type": "Mine", "status": "True"}]}});
    let told = subject.patch(&format!("{object}/status"), STRATEGIC, status).await.ok();
    assert_eq!((generation(&told), &told["status"]["observedGeneration"]), (Some(2), &json!(2)));
    let patch = json!({"spec": {"minReadySeconds": 1}});
    assert_eq!(generation(&subject.patch(&object, MERGE, patch).await.ok()), Some(2));
}

#[tokio::test]
async fn a_grace_period_can_only_get_shorter() {
    let (subject, _) = bound().await;
    let grace = |seconds: Value| {
        let options =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": seconds});
        let subject = &subject;
        async move { subject.call(Method::DELETE, POD, JSON, Some(options)).await.ok() }
    };
    let left = |pod: &Value| pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let first = grace(Value::Null).await;
    assert_eq!((left(&first), &first["metadata"]["generation"]), (Some(5), &json!(2)));
    assert_eq!(left(&grace(json!(2)).await), Some(2));
    assert_eq!(left(&grace(json!(9)).await), Some(2));
    // The kubelet says that all has ended, and then removes the Pod.
    let patch = json!({"status": {"phase": "Failed"}});
    assert_eq!(left(&subject.patch(STATUS, MERGE, patch).await.ok()), Some(2));
    grace(json!(0)).await;
    subject.get(POD).await.refused(404, "NotFound");
}
