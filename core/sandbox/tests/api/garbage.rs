//! # Owners
//!
//! Job: what becomes of an object whose owner goes, by each policy. The collector runs beside the API server on both
//! sides. May touch: the subject. Must not touch: its inside. Callers: cargo test.

use http::Method;
use serde_json::{Value, json};

use super::subject::{JSON, MERGE, Subject, config_map};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

fn path(name: &str) -> String {
    format!("{MAPS}/{name}")
}

/// A ConfigMap `child` that another owns, and that blocks its deletion.
async fn child(subject: &Subject, owner: &Value, finalizers: Value) -> Value {
    let mut body = config_map("child", json!({}));
    body["metadata"]["finalizers"] = finalizers;
    body["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true,
    }]);
    subject.post(MAPS, body).await.ok()
}

async fn delete(subject: &Subject, name: &str, policy: &str) -> Value {
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    subject.call(Method::DELETE, &path(name), JSON, Some(options)).await.ok()
}

#[tokio::test]
async fn what_is_owned_goes_after_its_owner() {
    let subject = Subject::with_controllers().await;
    let owner = subject.post(MAPS, config_map("owner", json!({}))).await.ok();
    child(&subject, &owner, json!([])).await;
    delete(&subject, "owner", "Background").await;
    subject.get(&path("owner")).await.refused(404, "NotFound");
    subject.until(&path("child"), |answer| answer.code == 404).await;
}

#[tokio::test]
async fn what_is_orphaned_stays_and_forgets_its_owner() {
    let subject = Subject::with_controllers().await;
    let owner = subject.post(MAPS, config_map("owner", json!({}))).await.ok();
    child(&subject, &owner, json!([])).await;
    delete(&subject, "owner", "Orphan").await;
    subject.until(&path("owner"), |answer| answer.code == 404).await;
    let child = subject.get(&path("child")).await.ok();
    assert!(child["metadata"].get("ownerReferences").is_none(), "{child}");
}

#[tokio::test]
async fn an_owner_in_the_foreground_waits_for_what_it_owns() {
    let subject = Subject::with_controllers().await;
    let owner = subject.post(MAPS, config_map("owner", json!({}))).await.ok();
    child(&subject, &owner, json!(["example.com/hold"])).await;
    let pending = delete(&subject, "owner", "Foreground").await;
    assert_eq!(pending["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let ends =
        |answer: &super::subject::Answer| answer.body["metadata"]["deletionTimestamp"].is_string();
    subject.until(&path("child"), ends).await;
    let owner = subject.get(&path("owner")).await.ok();
    assert!(owner["metadata"]["deletionTimestamp"].is_string(), "{owner}");
    let release = json!({"metadata": {"finalizers": null}});
    subject.patch(&path("child"), MERGE, release).await.ok();
    subject.until(&path("owner"), |answer| answer.code == 404).await;
}

#[tokio::test]
async fn an_owner_waits_only_for_those_who_block_it() {
    let subject = Subject::with_controllers().await;
    let owner = subject.post(MAPS, config_map("owner", json!({}))).await.ok();
    let held = child(&subject, &owner, json!(["example.com/hold"])).await;
    let mut owners = held["metadata"]["ownerReferences"].clone();
    owners[0]["blockOwnerDeletion"] = false.into();
    let patch = json!({"metadata": {"ownerReferences": owners}});
    subject.patch(&path("child"), MERGE, patch).await.ok();
    delete(&subject, "owner", "Foreground").await;
    subject.until(&path("owner"), |answer| answer.code == 404).await;
    let ends =
        |answer: &super::subject::Answer| answer.body["metadata"]["deletionTimestamp"].is_string();
    subject.until(&path("child"), ends).await;
    subject.patch(&path("child"), MERGE, json!({"metadata": {"finalizers": null}})).await.ok();
}

#[tokio::test]
async fn an_object_of_an_owner_that_never_was_goes() {
    let subject = Subject::with_controllers().await;
    let owner =
        json!({"metadata": {"name": "nobody", "uid": "00000000-0000-4000-8000-000000000000"}});
    child(&subject, &owner, json!([])).await;
    subject.until(&path("child"), |answer| answer.code == 404).await;
}
