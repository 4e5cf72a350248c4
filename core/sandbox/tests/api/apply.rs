//! # Server-side apply
//!
//! Job: owners, conflicts, removal. May touch: the subject. Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{APPLY, Answer, MERGE, Subject};

const SERVICE: &str = "/api/v1/namespaces/NS/services/s";

fn service(ports: Value, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": labels},
        "spec": {"selector": {"app": "s"}, "ports": ports}})
}

async fn apply(subject: &Subject, manager: &str, more: &str, body: Value) -> Answer {
    subject.patch(&format!("{SERVICE}?fieldManager={manager}{more}"), APPLY, body).await
}

fn entry<'v>(object: &'v Value, manager: &str) -> &'v Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("owners");
    entries.iter().find(|e| e["manager"] == manager).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn an_apply_creates_and_owns_what_it_says() {
    let subject = Subject::new().await;
    let body = service(json!([{"port": 80, "name": "http"}]), json!({"a": "1"}));
    let made = apply(&subject, "one", "", body.clone()).await;
    assert_eq!(made.code, 201);
    let owner = entry(&made.body, "one");
    assert_eq!(owner["operation"], "Apply");
    assert_eq!(
        owner["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {
                "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}},
                "f:selector": {},
            },
        })
    );
    let again = apply(&subject, "one", "", body).await;
    assert_eq!(again.code, 200);
    // Nothing changed, so nothing was written.
    assert_eq!(again.body["metadata"]["resourceVersion"], made.body["metadata"]["resourceVersion"]);
    let message = apply(&subject, "", "", json!({})).await.refused(422, "Invalid");
    assert!(
        message.contains("fieldManager: Required value: is required for apply patch"),
        "{message}"
    );
}

// proves: API-4
#[tokio::test]
async fn a_field_of_another_owner_conflicts_unless_forced() {
    let subject = Subject::new().await;
    apply(&subject, "one", "", service(json!([{"port": 80, "name": "http"}]), json!({"a": "1"})))
        .await
        .ok();
    let other = service(json!([{"port": 80, "name": "web"}]), json!({"b": "2"}));
    let answer = apply(&subject, "two", "", other.clone()).await;
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let message = answer.refused(409, "Conflict");
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].name"
    );
    let forced = apply(&subject, "two", "&force=true", other).await.ok();
    assert_eq!(forced["spec"]["ports"][0]["name"], "web");
    assert_eq!(forced["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    let lost = &entry(&forced, "one")["fieldsV1"]["f:spec"]["f:ports"]["k:{\"port\":80,\"protocol\":\"TCP\"}"];
    assert!(lost.get("f:name").is_none(), "{lost}");
}

#[tokio::test]
async fn an_update_is_an_owner_too() {
    let subject = Subject::new().await;
    apply(&subject, "one", "", service(json!([{"port": 80}]), json!({"a": "1"}))).await.ok();
    let label = json!({"metadata": {"labels": {"a": "2"}}});
    subject.patch(&format!("{SERVICE}?fieldManager=hand"), MERGE, label).await.ok();
    let message = apply(&subject, "one", "", service(json!([{"port": 80}]), json!({"a": "1"})))
        .await
        .refused(409, "Conflict");
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"hand\" using v1: .metadata.labels.a"
    );
}

// proves: API-4
#[tokio::test]
async fn what_is_no_longer_said_goes_unless_another_owns_it() {
    let subject = Subject::new().await;
    let both = json!([{"port": 80, "name": "a"}, {"port": 90, "name": "b"}]);
    apply(&subject, "one", "", service(both, json!({"a": "1", "b": "1"}))).await.ok();
    let shared = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {"b": "1"}}});
    apply(&subject, "two", "", shared).await.ok();
    let less = service(json!([{"port": 80, "name": "a"}]), json!({}));
    let object = apply(&subject, "one", "", less).await.ok();
    assert_eq!(object["metadata"]["labels"], json!({"b": "1"}));
    assert_eq!(object["spec"]["ports"].as_array().map(Vec::len), Some(1));
    // What was allocated or defaulted stays.
    assert!(object["spec"].get("clusterIP").is_some());
}

#[tokio::test]
async fn a_field_goes_with_the_defaults_inside_it() {
    let subject = Subject::new().await;
    let path = "/apis/apps/v1/namespaces/NS/deployments/d?fieldManager=one";
    let mut body = super::patch::deployment("d");
    let probe = json!({"httpGet": {"path": "/ready", "port": 80}});
    body["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = probe;
    let made = subject.patch(path, APPLY, body).await.ok();
    let container = &made["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["readinessProbe"]["periodSeconds"], 10);
    let object = subject.patch(path, APPLY, super::patch::deployment("d")).await.ok();
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("readinessProbe").is_none(), "{container}");
}

#[tokio::test]
async fn status_has_owners_of_its_own() {
    let subject = Subject::new().await;
    let balanced = |port: u16| {
        let mut body = service(json!([{"port": port}]), json!({}));
        body["spec"]["type"] = "LoadBalancer".into();
        body
    };
    apply(&subject, "one", "", balanced(80)).await.ok();
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.1.2.3", "ipMode": "VIP"}]}}});
    let path = format!("{SERVICE}/status?fieldManager=lb");
    let object = subject.patch(&path, APPLY, body).await.ok();
    assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ip"], "10.1.2.3");
    assert_eq!(entry(&object, "lb")["subresource"], "status");
    let object = apply(&subject, "one", "", balanced(81)).await.ok();
    assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ip"], "10.1.2.3");
}

#[tokio::test]
async fn a_field_that_the_schema_does_not_have_is_refused() {
    let subject = Subject::new().await;
    let mut body = service(json!([{"port": 80}]), json!({}));
    body["spec"]["wrong"] = true.into();
    let answer = apply(&subject, "one", "", body).await;
    assert_eq!(answer.code, 500);
    let message = answer.body["message"].as_str().unwrap_or_default();
    assert!(message.ends_with(".spec.wrong: field not declared in schema"), "{message}");
}
