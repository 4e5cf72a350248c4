//! # Removal
//!
//! Job: deletions that are tried, conditional, held back or refused. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use http::Method;
use serde_json::{Value, json};

use super::subject::{Answer, JSON, MERGE, Subject, config_map};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

async fn map(subject: &Subject, name: &str, metadata: Value) -> Answer {
    let mut body = config_map(name, json!({}));
    for (field, value) in metadata.as_object().expect("a map") {
        body["metadata"][field] = value.clone();
    }
    subject.post(MAPS, body).await
}

async fn delete(subject: &Subject, path: &str, mut options: Value) -> Answer {
    options["kind"] = "DeleteOptions".into();
    options["apiVersion"] = "v1".into();
    subject.call(Method::DELETE, &format!("{MAPS}{path}"), JSON, Some(options)).await
}

#[tokio::test]
async fn a_tried_deletion_deletes_nothing() {
    let subject = Subject::new().await;
    map(&subject, "a", json!({"labels": {"l": "x"}})).await.ok();
    delete(&subject, "/a", json!({"dryRun": ["All"]})).await.ok();
    subject.delete(&format!("{MAPS}/a?dryRun=All")).await.ok();
    delete(&subject, "/a", json!({"dryRun": ["All"], "propagationPolicy": "Foreground"}))
        .await
        .ok();
    delete(&subject, "?labelSelector=l", json!({"dryRun": ["All"]})).await.ok();
    let kept = subject.get(&format!("{MAPS}/a")).await.ok();
    assert!(kept["metadata"].get("deletionTimestamp").is_none(), "{kept}");
}

// proves: API-3
#[tokio::test]
async fn a_deletion_can_name_the_version_it_means() {
    let subject = Subject::new().await;
    let made = map(&subject, "a", json!({})).await.ok();
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    let message = delete(&subject, "/a", stale).await.refused(409, "Conflict");
    let start = "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does \
        not match the ResourceVersion in record (";
    assert!(message.starts_with(start), "{message}");
    let meta = &made["metadata"];
    let exact =
        json!({"preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}});
    delete(&subject, "/a", exact).await.ok();
    subject.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn deletions_that_make_no_sense_are_refused() {
    let subject = Subject::new().await;
    map(&subject, "a", json!({})).await.ok();
    for (options, why) in [
        (
            json!({"propagationPolicy": "Foo"}),
            "propagationPolicy: Unsupported value: \"Foo\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        ),
        (
            json!({"dryRun": ["Some"]}),
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
    ] {
        let message = delete(&subject, "/a", options).await.refused(422, "Invalid");
        assert_eq!(message, format!("DeleteOptions.meta.k8s.io \"\" is invalid: {why}"));
    }
    subject.get(&format!("{MAPS}/a")).await.ok();
}

#[tokio::test]
async fn an_object_on_its_way_out_can_change_but_not_come_back() {
    let subject = Subject::new().await;
    map(&subject, "a", json!({"finalizers": ["example.com/hold"]})).await.ok();
    let path = format!("{MAPS}/a");
    let list = subject.get(MAPS).await.ok();
    let from = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let watch = format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Da&resourceVersion={from}");
    let mut watch = subject.watch(&watch).await;
    let first = subject.delete(&path).await.ok();
    let again = subject.delete(&path).await.ok();
    assert_eq!(first["metadata"]["deletionTimestamp"], again["metadata"]["deletionTimestamp"]);
    assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 0);
    let patch = json!({"metadata": {"deletionTimestamp": null}, "data": {"k": "v"}});
    let patched = subject.patch(&path, MERGE, patch).await.ok();
    assert!(
        patched["metadata"]["deletionTimestamp"].is_string() && patched["data"]["k"] == "v",
        "{patched}"
    );
    // The last answer is the object as it would have been.
    let released =
        subject.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await.ok();
    assert!(released["metadata"].get("finalizers").is_none(), "{released}");
    subject.get(&path).await.refused(404, "NotFound");
    for expected in ["MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(watch.next().await.0, expected);
    }
}

#[tokio::test]
async fn a_collection_goes_as_far_as_it_can() {
    let subject = Subject::new().await;
    map(&subject, "free", json!({"labels": {"l": "x"}})).await.ok();
    map(&subject, "held", json!({"labels": {"l": "x"}, "finalizers": ["example.com/hold"]}))
        .await
        .ok();
    delete(&subject, "?labelSelector=l", json!({"propagationPolicy": "Background"})).await.ok();
    let left = subject.get(&format!("{MAPS}?labelSelector=l")).await.ok();
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    assert!(left["items"][0]["metadata"]["deletionTimestamp"].is_string(), "{left}");
    subject
        .patch(&format!("{MAPS}/held"), MERGE, json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
}

#[tokio::test]
async fn finalizers_and_owners_are_checked() {
    let subject = Subject::new().await;
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "X", "name": name, "uid": name, "controller": true});
    let event = json!({"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"});
    for (metadata, why) in [
        (
            json!({"finalizers": ["nope"]}),
            "metadata.finalizers[0]: Invalid value: \"nope\": name is neither a standard finalizer name nor is it fully qualified",
        ),
        (
            json!({"finalizers": ["a b/c"]}),
            "metadata.finalizers: Invalid value: \"a b/c\": prefix part a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            json!({"finalizers": ["foregroundDeletion", "orphan"]}),
            "metadata.finalizers: Invalid value: [\"foregroundDeletion\",\"orphan\"]: finalizer orphan and foregroundDeletion cannot be both set",
        ),
        (
            json!({"ownerReferences": [owner("y"), owner("z")]}),
            "Only one reference can have Controller set to true. Found \"true\" in references for X/y and X/z",
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "", "uid": "u"}]}),
            "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
        ),
        (json!({"ownerReferences": [event]}), "/v1, Kind=Event is disallowed from being an owner"),
    ] {
        let message = map(&subject, "a", metadata).await.refused(422, "Invalid");
        assert!(
            message.starts_with("ConfigMap \"a\" is invalid: ") && message.contains(why),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_namespace_takes_what_is_in_it_along() {
    let subject = Subject::with_controllers().await;
    let message = subject.delete("/api/v1/namespaces/default").await.refused(403, "Forbidden");
    assert_eq!(message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
    map(&subject, "free", json!({})).await.ok();
    map(&subject, "held", json!({"finalizers": ["example.com/hold"]})).await.ok();
    let ending = subject.delete("/api/v1/namespaces/NS").await.ok();
    assert_eq!(ending["spec"]["finalizers"], json!(["kubernetes"]));
    subject.until(&format!("{MAPS}/free"), |answer| answer.code == 404).await;
    let held = |answer: &Answer| answer.body["metadata"]["deletionTimestamp"].is_string();
    subject.until(&format!("{MAPS}/held"), held).await;
    // What ends can still be written, but nothing comes new, not by an apply either.
    let path = format!("{MAPS}/new?fieldManager=a");
    let answer = subject.patch(&path, super::subject::APPLY, config_map("new", json!({}))).await;
    assert_eq!(answer.causes()[0].0, "metadata.namespace");
    answer.refused(403, "Forbidden");
    subject.patch(&format!("{MAPS}/held"), MERGE, json!({"data": {"k": "v"}})).await.ok();
    subject
        .patch(&format!("{MAPS}/held"), MERGE, json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    subject.get(&format!("{MAPS}/held")).await.refused(404, "NotFound");
}
