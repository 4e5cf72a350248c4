//! # Unknown fields and options
//!
//! Job: what `fieldValidation` does to fields that nobody knows, on every way in; options that make no sense; what a
//! typed object leaves out. May touch: the subject. Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::{
    patch::deployment,
    schemas::Things,
    subject::{JSON_PATCH, MERGE, STRATEGIC, Subject, config_map},
};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/NS/deployments";

fn unknown(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|field| format!("unknown field \"{field}\"")).collect()
}

#[tokio::test]
async fn unknown_fields_are_told_ignored_or_refused() {
    let subject = Subject::new().await;
    let mut body = deployment("d");
    body["spec"]["zip"] = 1.into();
    body["spec"]["template"]["spec"]["containers"][0]["wat"] = 1.into();
    let mut fields = unknown(&["spec.template.spec.containers[0].wat", "spec.zip"]);
    for (mode, told) in
        [("", true), ("&fieldValidation=Warn", true), ("&fieldValidation=Ignore", false)]
    {
        let path = format!("{DEPLOYMENTS}?dryRun=All{mode}");
        let answer = subject.post(&path, body.clone()).await;
        let mut warnings = answer.warnings.clone();
        warnings.sort();
        fields.sort();
        assert_eq!(warnings, if told { fields.clone() } else { Vec::new() });
        assert!(answer.ok()["spec"].get("zip").is_none());
    }
    let path = format!("{DEPLOYMENTS}?fieldValidation=Strict");
    let message = subject.post(&path, body.clone()).await.refused(400, "BadRequest");
    let start = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field ";
    assert!(message.starts_with(start), "{message}");
    let path = format!("{DEPLOYMENTS}?fieldValidation=Bogus");
    let message = subject.post(&path, body).await.refused(422, "Invalid");
    assert_eq!(
        message,
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Bogus\": supported values: \
         \"\", \"Ignore\", \"Strict\", \"Warn\""
    );
}

#[tokio::test]
async fn a_patch_of_unknown_fields_is_refused_as_a_patch() {
    let subject = Subject::new().await;
    subject.post(DEPLOYMENTS, deployment("d")).await.ok();
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "wat": 1}]}}}});
    let json = json!([{"op": "add", "path": "/spec/wat", "value": 1}]);
    for (kind, patch, field) in [
        (STRATEGIC, strategic, "spec.template.spec.containers[0].wat"),
        (MERGE, json!({"spec": {"wat": 1}}), "spec.wat"),
        (JSON_PATCH, json, "spec.wat"),
    ] {
        let path = format!("{DEPLOYMENTS}/d?fieldValidation=Strict");
        let message = subject.patch(&path, kind, patch.clone()).await.refused(422, "Invalid");
        let end = format!("strict decoding error: unknown field \"{field}\"");
        assert!(
            message.starts_with(" \"\" is invalid: patch: Invalid value: ")
                && message.ends_with(&end),
            "{message}"
        );
        let path = format!("{DEPLOYMENTS}/d?dryRun=All");
        assert_eq!(subject.patch(&path, kind, patch).await.warnings, unknown(&[field]));
    }
}

#[tokio::test]
async fn unknown_fields_of_custom_kinds_are_told_in_order() {
    let things = Things::new(json!({"type": "object", "properties": {"port": {"type": "integer"},
        "items": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}))
    .await;
    let mut body = things.thing("v1", json!({"wat": 1, "port": 1, "items": [{"n": 1, "zz": 2}]}));
    body["foo"] = "bar".into();
    body["metadata"]["nope"] = 1.into();
    let path = things.path("v1");
    let fields = unknown(&["metadata.nope", "foo", "spec.items[0].zz", "spec.wat"]);
    let strict = format!("{path}?fieldValidation=Strict");
    let message = things.subject.post(&strict, body.clone()).await.refused(400, "BadRequest");
    let expected = format!(
        "Thing in version \"v1\" cannot be handled as a Thing: strict decoding error: {}",
        fields.join(", ")
    );
    assert_eq!(message, expected);
    let mut warnings = things.subject.post(&path, body).await.warnings;
    warnings.sort();
    let mut expected = fields;
    expected.sort();
    assert_eq!(warnings, expected);
    things.remove().await;
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let subject = Subject::new().await;
    let long = "x".repeat(129);
    for (path, message) in [
        (
            format!("{MAPS}?fieldManager={long}"),
            "fieldManager: Too long: may not be more than 128 bytes",
        ),
        (
            format!("{MAPS}?fieldManager=%0Ax"),
            "fieldManager: Invalid value: \"\\nx\": invalid character U+000A (at position 0)",
        ),
        (
            format!("{MAPS}?dryRun=Some"),
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
    ] {
        let refusal = subject.post(&path, config_map("a", json!({}))).await.refused(422, "Invalid");
        assert_eq!(refusal, format!("CreateOptions.meta.k8s.io \"\" is invalid: {message}"));
    }
    for parameter in ["limit", "timeoutSeconds"] {
        let path = format!("{MAPS}?{parameter}=abc");
        let message = subject.get(&path).await.refused(400, "BadRequest");
        assert_eq!(message, "strconv.ParseInt: parsing \"abc\": invalid syntax");
    }
}

#[tokio::test]
async fn empty_maps_and_lists_of_typed_kinds_are_absent() {
    let subject = Subject::new().await;
    let mut body = config_map("a", json!({}));
    body["metadata"]["annotations"] = json!({});
    body["metadata"]["ownerReferences"] = json!([]);
    let made = subject.post(MAPS, body).await.ok();
    assert!(made.get("data").is_none() && made["metadata"].get("annotations").is_none(), "{made}");
    let patched = subject.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": "v"}})).await;
    assert_eq!(patched.ok()["data"], json!({"k": "v"}));
    let emptied = subject.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": null}})).await;
    assert!(emptied.ok().get("data").is_none());
    // An empty object of known fields says something.
    let mut body = deployment("d");
    let spec = &mut body["spec"]["template"]["spec"];
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["nodeSelector"] = json!({});
    spec["containers"][0]["args"] = json!([]);
    let made = subject.post(DEPLOYMENTS, body).await.ok();
    let spec: &Value = &made["spec"]["template"]["spec"];
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    assert!(
        spec.get("nodeSelector").is_none() && spec["containers"][0].get("args").is_none(),
        "{spec}"
    );
}
