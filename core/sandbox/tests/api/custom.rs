//! # Custom kinds
//!
//! Job: definitions, versions, pruning, defaults, validation, columns. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{APPLY, MERGE, STRATEGIC, Subject};

/// A definition in a group of the test's own: a real server is shared by all tests.
fn definition(subject: &Subject) -> (String, Value) {
    let group = format!("{}.example.com", subject.namespace);
    let old = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "port": {"type": "integer"}}}}});
    let new = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["port"], "properties": {
            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "target": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "one": {"type": "object", "oneOf": [{"required": ["p"]}, {"required": ["q"]}],
                "properties": {"p": {"type": "string"}, "q": {"type": "string"}}},
            "items": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name"],
                "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}}}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("links.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "links", "kind": "Link", "shortNames": ["ln"]},
            "versions": [
                {"name": "v1alpha1", "served": true, "storage": false, "schema": {"openAPIV3Schema": old}},
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": new},
                    "subresources": {"status": {}}, "additionalPrinterColumns": [
                        {"name": "Port", "type": "integer", "jsonPath": ".spec.port"},
                        {"name": "Ready", "type": "string",
                            "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}]}]}});
    (group, definition)
}

/// A subject with the definition served; returns the path of the kind in version v1.
async fn served() -> (Subject, String) {
    let subject = Subject::new().await;
    let (group, definition) = definition(&subject);
    subject.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.ok();
    let path = format!("/apis/{group}/v1/namespaces/NS/links");
    subject.until(&path, |answer| answer.code == 200).await;
    (subject, path)
}

/// An object of the kind that the path names.
fn link(path: &str, spec: Value) -> Value {
    let parts: Vec<&str> = path.split('/').collect();
    let api_version = format!("{}/{}", parts[2], parts[3]);
    json!({"apiVersion": api_version, "kind": "Link", "metadata": {"name": "l"}, "spec": spec})
}

async fn remove(subject: &Subject, path: &str) {
    let group = path.split('/').nth(2).expect("a group");
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/links.{group}");
    subject.delete(&path).await.ok();
}

#[tokio::test]
async fn a_definition_is_established_and_discovered() {
    let (subject, path) = served().await;
    let group = path.split('/').nth(2).expect("a group").to_owned();
    let name = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/links.{group}");
    let established = |answer: &super::subject::Answer| {
        answer.body["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
        })
    };
    let definition = subject.until(&name, established).await.ok();
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["spec"]["names"]["listKind"], "LinkList");
    let group_path = format!("/apis/{group}");
    let answer = subject.until(&group_path, |answer| answer.code == 200).await.ok();
    assert_eq!(answer["preferredVersion"]["version"], "v1");
    let resources = subject.get(&format!("/apis/{group}/v1")).await.ok();
    let names: Vec<_> =
        resources["resources"].as_array().expect("list").iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["links", "links/status"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ln"]));
    remove(&subject, &path).await;
    subject.until(&path, |answer| answer.code == 404).await;
}

// proves: API-5
#[tokio::test]
async fn objects_are_pruned_defaulted_and_checked() {
    let (subject, path) = served().await;
    let made = subject
        .post(
            &path,
            link(&path, json!({"port": 80, "what": 1, "target": "http", "free": {"any": [1]}})),
        )
        .await
        .ok();
    assert_eq!(
        made["spec"],
        json!({"port": 80, "target": "http", "free": {"any": [1]}, "mode": "a"})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let bad = json!({"port": 0, "mode": "zz", "name": "A1", "one": {}, "items": [{"v": 1}, {"name": "a"}, {"name": "b"}]});
    let mut bad = link(&path, bad);
    bad["metadata"]["name"] = "bad".into();
    let message = subject.post(&path, bad).await.refused(422, "Invalid");
    for part in [
        "spec.port: Invalid value: 0: spec.port in body should be greater than or equal to 1",
        "spec.mode: Unsupported value: \"zz\": supported values: \"a\", \"b\"",
        "spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'",
        "spec.items[0].name: Required value",
        "spec.items: Too many: 3: must have at most 2 items",
        "\"spec.one\" must validate one and only one schema (oneOf). Found none valid",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
    let mut wrong = link(&path, json!({"port": "x"}));
    wrong["metadata"]["name"] = "wrong".into();
    let message = subject.post(&path, wrong).await.refused(422, "Invalid");
    assert!(
        message.contains("spec.port: Invalid value: \"string\": spec.port in body must be of type integer: \"string\""),
        "{message}"
    );
    remove(&subject, &path).await;
}

#[tokio::test]
async fn versions_are_views_of_one_object() {
    let (subject, path) = served().await;
    subject.post(&path, link(&path, json!({"port": 80}))).await.ok();
    let old = format!("{}/l", path.replace("/v1/", "/v1alpha1/"));
    let seen = subject.get(&old).await.ok();
    assert!(seen["apiVersion"].as_str().is_some_and(|v| v.ends_with("/v1alpha1")), "{seen}");
    // The old version's schema does not know `mode`.
    assert_eq!(seen["spec"], json!({"port": 80}));
    let mut watch = subject.watch(&format!("{}?watch=1", path.replace("/v1/", "/v1alpha1/"))).await;
    assert_eq!(watch.next().await.1["apiVersion"], seen["apiVersion"]);
    remove(&subject, &path).await;
}

#[tokio::test]
async fn status_and_generation_follow_the_subresource() {
    let (subject, path) = served().await;
    let mut body = link(&path, json!({"port": 80}));
    body["status"] = json!({"x": 1});
    let made = subject.post(&path, body).await.ok();
    assert!(made.get("status").is_none());
    let object = format!("{path}/l");
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"port": 9}});
    let patched = subject.patch(&format!("{object}/status"), MERGE, patch).await.ok();
    assert_eq!(
        (&patched["spec"]["port"], &patched["metadata"]["generation"]),
        (&json!(80), &json!(1))
    );
    let patched = subject.patch(&object, MERGE, json!({"spec": {"port": 81}})).await.ok();
    assert_eq!(patched["metadata"]["generation"], 2);
    let header = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = subject.get_with(&path, &header).await.ok();
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(columns, ["Name", "Port", "Ready"]);
    assert_eq!(table["rows"][0]["cells"], json!(["l", 81, "True"]));
    remove(&subject, &path).await;
}

#[tokio::test]
async fn custom_kinds_merge_by_their_schema() {
    let (subject, path) = served().await;
    let object = format!("{path}/l");
    let apply = |manager: &str, spec: Value| {
        let path = format!("{object}?fieldManager={manager}");
        let body = link(&object, spec);
        let subject = &subject;
        async move { subject.patch(&path, APPLY, body).await }
    };
    apply("one", json!({"port": 80, "items": [{"name": "a", "v": 1}]})).await.ok();
    let merged = apply("two", json!({"port": 80, "items": [{"name": "b", "v": 2}]})).await.ok();
    assert_eq!(merged["spec"]["items"], json!([{"name": "a", "v": 1}, {"name": "b", "v": 2}]));
    let merged = apply("one", json!({"port": 80})).await.ok();
    assert_eq!(merged["spec"]["items"], json!([{"name": "b", "v": 2}]));
    let strategic = subject.patch(&object, STRATEGIC, json!({"spec": {"port": 1}})).await;
    let message = strategic.refused(415, "UnsupportedMediaType");
    assert!(
        message.contains("application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"),
        "{message}"
    );
    let mut update = merged.clone();
    update["metadata"].as_object_mut().expect("a map").remove("resourceVersion");
    let message = subject.put(&object, update).await.refused(422, "Invalid");
    assert!(message.contains("metadata.resourceVersion: Invalid value: "), "{message}");
    remove(&subject, &path).await;
}
