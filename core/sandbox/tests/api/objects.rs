//! # Objects
//!
//! Job: create, read, update, delete, and what guards them. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use serde_json::json;

use super::subject::{Subject, config_map};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

#[tokio::test]
async fn a_new_object_gets_what_the_server_decides() {
    let subject = Subject::new().await;
    let made = subject.post(MAPS, config_map("a", json!({"k": "v"}))).await;
    assert_eq!(made.code, 201);
    let made = made.body;
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        assert!(made["metadata"].get(field).is_some(), "{field}: {made}");
    }
    assert!(made["metadata"].get("generation").is_none());
    let read = subject.get(&format!("{MAPS}/a")).await.ok();
    assert_eq!(read, made);
    let message =
        subject.post(MAPS, config_map("a", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(message, "configmaps \"a\" already exists");
    let message = subject.get(&format!("{MAPS}/b")).await.refused(404, "NotFound");
    assert_eq!(message, "configmaps \"b\" not found");
}

#[tokio::test]
async fn names_are_generated_and_checked() {
    let subject = Subject::new().await;
    let made = subject.post(MAPS, json!({"metadata": {"generateName": "gen-"}})).await.ok();
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    let message =
        subject.post(MAPS, config_map("Bad_Name", json!({}))).await.refused(422, "Invalid");
    assert!(
        message.starts_with(
            "ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 \
             subdomain must consist of"
        ),
        "{message}"
    );
    let message = subject.post(MAPS, json!({"metadata": {}})).await.refused(422, "Invalid");
    assert!(
        message.contains("metadata.name: Required value: name or generateName is required"),
        "{message}"
    );
}

// proves: API-3
#[tokio::test]
async fn a_stale_update_conflicts_and_a_null_update_changes_nothing() {
    let subject = Subject::new().await;
    let first = subject.post(MAPS, config_map("a", json!({"k": "1"}))).await.ok();
    let path = format!("{MAPS}/a");
    let same = subject.put(&path, first.clone()).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    subject.put(&path, second.clone()).await.ok();
    let message = subject.put(&path, second.clone()).await.refused(409, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    second["metadata"].as_object_mut().expect("a map").remove("resourceVersion");
    second["data"]["k"] = "3".into();
    assert_eq!(subject.put(&path, second.clone()).await.ok()["data"]["k"], "3");
    second["metadata"]["uid"] = "other".into();
    subject.put(&path, second).await.refused(409, "Conflict");
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let subject = Subject::new().await;
    let made = subject.post(&format!("{MAPS}?dryRun=All"), config_map("a", json!({}))).await.ok();
    assert_eq!(made["metadata"]["name"], "a");
    subject.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn unknown_fields_are_dropped_or_refused() {
    let subject = Subject::new().await;
    let mut body = config_map("a", json!({}));
    body["dat"] = json!({"a": "b"});
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let message = subject.post(&strict, body.clone()).await.refused(400, "BadRequest");
    assert_eq!(
        message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dat\""
    );
    let made = subject.post(MAPS, body).await.ok();
    assert!(made.get("dat").is_none());
    let wrong = config_map("b", json!({"n": 1}));
    let message = subject.post(MAPS, wrong).await.refused(400, "BadRequest");
    assert!(message.contains("json: cannot unmarshal number into Go struct field"), "{message}");
}

#[tokio::test]
async fn finalizers_hold_an_object_back() {
    let subject = Subject::new().await;
    let mut body = config_map("a", json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    subject.post(MAPS, body).await.ok();
    let path = format!("{MAPS}/a");
    let pending = subject.delete(&path).await.ok();
    assert!(pending["metadata"].get("deletionTimestamp").is_some(), "{pending}");
    let add = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let message = subject.patch(&path, super::subject::MERGE, add).await.refused(422, "Invalid");
    assert!(
        message.contains("no new finalizers can be added if the object is being deleted"),
        "{message}"
    );
    let release = json!({"metadata": {"finalizers": null}});
    subject.patch(&path, super::subject::MERGE, release).await.ok();
    subject.get(&path).await.refused(404, "NotFound");
}

// proves: API-3
#[tokio::test]
async fn deletion_checks_its_preconditions() {
    let subject = Subject::new().await;
    let made = subject.post(MAPS, config_map("a", json!({}))).await.ok();
    let path = format!("{MAPS}/a");
    let options = |uid: &str| json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}});
    let delete = |body| subject.call(http::Method::DELETE, &path, super::subject::JSON, Some(body));
    let message = delete(options("other")).await.refused(409, "Conflict");
    let expected = "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (other) does not match";
    assert!(message.starts_with(expected), "{message}");
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let status = delete(options(uid)).await.ok();
    assert_eq!((&status["status"], &status["details"]["name"]), (&json!("Success"), &json!("a")));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let subject = Subject::new().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut body = config_map(name, json!({}));
        body["metadata"]["labels"] = json!({"l": label});
        subject.post(MAPS, body).await.ok();
    }
    subject.delete(&format!("{MAPS}?labelSelector=l%3Dx")).await.ok();
    let left = subject.get(&format!("{MAPS}?labelSelector=l")).await.ok();
    let names: Vec<_> =
        left["items"].as_array().expect("items").iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn a_missing_or_ending_namespace_takes_nothing_in() {
    let subject = Subject::new().await;
    let message = subject
        .post("/api/v1/namespaces/no-such-namespace/configmaps", config_map("a", json!({})))
        .await
        .refused(404, "NotFound");
    assert_eq!(message, "namespaces \"no-such-namespace\" not found");
    let ending = subject.delete("/api/v1/namespaces/NS").await.ok();
    assert_eq!(ending["status"]["phase"], "Terminating");
    let message = subject.post(MAPS, config_map("a", json!({}))).await.refused(403, "Forbidden");
    assert_eq!(
        message,
        subject.path(
            "configmaps \"a\" is forbidden: unable to create new content in namespace NS because it is being \
             terminated"
        )
    );
}

#[tokio::test]
async fn secrets_take_plain_text_in_and_give_base64_out() {
    let subject = Subject::new().await;
    let body = json!({"metadata": {"name": "s"}, "stringData": {"a": "hello"}});
    let made = subject.post("/api/v1/namespaces/NS/secrets", body).await.ok();
    assert_eq!((&made["data"]["a"], &made["type"]), (&json!("aGVsbG8="), &json!("Opaque")));
    assert!(made.get("stringData").is_none());
    let tls =
        json!({"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
    let message = subject.post("/api/v1/namespaces/NS/secrets", tls).await.refused(422, "Invalid");
    assert!(message.contains("data[tls.key]: Required value"), "{message}");
}

#[tokio::test]
async fn events_of_both_groups_are_one() {
    let subject = Subject::new().await;
    let body = json!({
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "note": "hello",
        "reason": "R", "action": "A", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": subject.namespace}});
    subject.post("/apis/events.k8s.io/v1/namespaces/NS/events", body).await.ok();
    let selected = subject
        .get("/api/v1/namespaces/NS/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod")
        .await
        .ok();
    assert_eq!(selected["items"][0]["message"], "hello");
    assert_eq!(selected["items"][0]["apiVersion"].as_str().unwrap_or("v1"), "v1");
}
