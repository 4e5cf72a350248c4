//! # Patches and subresources
//!
//! Job: JSON, merge and strategic patches, status, scale, generations. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{JSON_PATCH, MERGE, STRATEGIC, Subject, config_map};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/NS/deployments";

pub(crate) fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
            {"name": "a", "image": "x:1", "env": [{"name": "A", "value": "1"}]}, {"name": "b", "image": "y"}]}}}})
}

#[tokio::test]
async fn json_patches_hold_or_fail_as_a_whole() {
    let subject = Subject::new().await;
    subject.post(MAPS, config_map("a", json!({"k": "1"}))).await.ok();
    let path = format!("{MAPS}/a");
    let good = json!([{"op": "test", "path": "/data/k", "value": "1"}, {"op": "replace", "path": "/data/k", "value": "2"}]);
    assert_eq!(subject.patch(&path, JSON_PATCH, good).await.ok()["data"]["k"], "2");
    // What is replaced in a map need not be there.
    let new = json!([{"op": "replace", "path": "/data/n", "value": "1"}]);
    assert_eq!(subject.patch(&path, JSON_PATCH, new).await.ok()["data"]["n"], "1");
    for op in [
        json!({"op": "replace", "path": "/no/n", "value": "1"}),
        json!({"op": "remove", "path": "/data/no"}),
    ] {
        subject.patch(&path, JSON_PATCH, json!([op])).await.refused(422, "Invalid");
    }
    let bad = json!([{"op": "replace", "path": "/data/k", "value": "3"}, {"op": "test", "path": "/data/k", "value": "9"}]);
    let message = subject.patch(&path, JSON_PATCH, bad).await.refused(422, "Invalid");
    assert_eq!(message, "the server rejected our request due to an error in our request");
    assert_eq!(subject.get(&path).await.ok()["data"]["k"], "2");
}

#[tokio::test]
async fn merge_patches_set_and_remove() {
    let subject = Subject::new().await;
    subject.post(MAPS, config_map("a", json!({"k": "1", "l": "2"}))).await.ok();
    let patched =
        subject.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": null, "m": "3"}})).await;
    assert_eq!(patched.ok()["data"], json!({"l": "2", "m": "3"}));
    let version = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "z"}});
    subject.patch(&format!("{MAPS}/a"), MERGE, version).await.refused(409, "Conflict");
}

#[tokio::test]
async fn strategic_patches_merge_lists_by_key() {
    let subject = Subject::new().await;
    subject.post(DEPLOYMENTS, deployment("d")).await.ok();
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "a", "image": "x:2", "env": [{"name": "B", "value": "2"}]}, {"name": "b", "$patch": "delete"}]}}}});
    let patched = subject.patch(&format!("{DEPLOYMENTS}/d"), STRATEGIC, patch).await.ok();
    let containers =
        patched["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0]["image"], "x:2");
    // A new element of a keyed list comes first.
    assert_eq!(
        containers[0]["env"],
        json!([{"name": "B", "value": "2"}, {"name": "A", "value": "1"}])
    );
    assert_eq!(patched["metadata"]["generation"], 2);
}

#[tokio::test]
async fn status_is_written_by_its_own_path_only() {
    let subject = Subject::new().await;
    let mut body = deployment("d");
    body["status"] = json!({"replicas": 5});
    let made = subject.post(DEPLOYMENTS, body).await.ok();
    assert_eq!(made["status"], json!({}));
    let path = format!("{DEPLOYMENTS}/d");
    // A controller may write at any moment, but it leaves conditions that it does not know.
    let mine = |status: &str| json!({"conditions": [{"type": "Mine", "status": status}]});
    let own = |object: &Value| -> Value {
        let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        conditions.iter().find(|c| c["type"] == "Mine").map_or(Value::Null, |c| c["status"].clone())
    };
    let patch = json!({"status": mine("True"), "spec": {"replicas": 7}});
    let patched = subject.patch(&format!("{path}/status"), MERGE, patch).await.ok();
    assert_eq!((own(&patched), &patched["spec"]["replicas"]), (json!("True"), &json!(1)));
    assert_eq!(patched["metadata"]["generation"], 1);
    let patched = subject.patch(&path, MERGE, json!({"status": mine("False")})).await.ok();
    assert_eq!(own(&patched), "True");
}

#[tokio::test]
async fn scale_is_a_view_of_replicas() {
    let subject = Subject::new().await;
    subject.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = subject.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "app=d");
    scale["spec"]["replicas"] = 4.into();
    // A controller may write the Deployment's status at any moment; its version is not what this is about.
    if let Some(meta) = scale["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
    }
    assert_eq!(subject.put(&path, scale).await.ok()["spec"]["replicas"], 4);
    subject.patch(&path, MERGE, json!({"spec": {"replicas": 0}})).await.ok();
    let read = subject.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    assert_eq!(
        (&read["spec"]["replicas"], &read["metadata"]["generation"]),
        (&json!(0), &json!(3))
    );
}

#[tokio::test]
async fn workloads_are_defaulted_and_checked() {
    let subject = Subject::new().await;
    let made = subject.post(DEPLOYMENTS, deployment("d")).await.ok();
    let spec = &made["spec"];
    assert_eq!(
        (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(
        (
            &pod["restartPolicy"],
            &pod["terminationGracePeriodSeconds"],
            &pod["containers"][0]["imagePullPolicy"]
        ),
        (&json!("Always"), &json!(30), &json!("IfNotPresent"))
    );
    let mut bad = deployment("e");
    bad["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let message = subject.post(DEPLOYMENTS, bad).await.refused(422, "Invalid");
    assert!(
        message.contains(
            "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match \
             template `labels`"
        ),
        "{message}"
    );
    let path = format!("{DEPLOYMENTS}/d");
    let patch = json!({"spec": {"selector": {"matchLabels": {"app": "d", "x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}});
    let message = subject.patch(&path, MERGE, patch).await.refused(422, "Invalid");
    assert!(message.contains("spec.selector: Invalid value"), "{message}");
    assert!(message.contains("field is immutable"), "{message}");
}
