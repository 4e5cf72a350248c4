//! # Owners of fields
//!
//! Job: what becomes of shared, forced, forgotten and given-up fields. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::{
    patch::deployment,
    subject::{APPLY, Answer, MERGE, Subject, config_map},
};

const MAP: &str = "/api/v1/namespaces/NS/configmaps/a";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/NS/deployments/d";

async fn apply(subject: &Subject, path: &str, manager: &str, more: &str, body: Value) -> Answer {
    subject.patch(&format!("{path}?fieldManager={manager}{more}"), APPLY, body).await
}

async fn map(subject: &Subject, manager: &str, more: &str, data: Value) -> Answer {
    apply(subject, MAP, manager, more, config_map("a", data)).await
}

fn owners(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut owners: Vec<_> =
        entries.into_iter().flatten().filter_map(|e| e["manager"].as_str()).collect();
    owners.sort_unstable();
    owners
}

fn fields<'v>(object: &'v Value, manager: &str) -> &'v Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("owners");
    let entry = entries.iter().find(|e| e["manager"] == manager);
    entry.map_or(&Value::Null, |e| &e["fieldsV1"])
}

// proves: API-4
#[tokio::test]
async fn conflicts_with_several_owners_are_told_together() {
    let subject = Subject::new().await;
    map(&subject, "zoe", "", json!({"k": "1", "l": "1"})).await.ok();
    map(&subject, "ann", "", json!({"k": "1"})).await.ok();
    let answer = map(&subject, "two", "", json!({"k": "2", "l": "2", "m": "2"})).await;
    let cause = |field: &str, owner: &str| (field.into(), format!("conflict with \"{owner}\""));
    let causes = [cause(".data.k", "ann"), cause(".data.k", "zoe"), cause(".data.l", "zoe")];
    assert_eq!(answer.causes(), causes);
    assert_eq!(
        answer.refused(409, "Conflict"),
        "Apply failed with 3 conflicts: conflicts with \"ann\":\n- .data.k\nconflicts with \"zoe\":\n- .data.k\n- .data.l"
    );
    // Nothing of it was taken over.
    assert_eq!(subject.get(MAP).await.ok()["data"], json!({"k": "1", "l": "1"}));
}

#[tokio::test]
async fn who_agrees_shares_and_a_shared_field_goes_with_its_last_owner() {
    let subject = Subject::new().await;
    map(&subject, "one", "", json!({"k": "1", "l": "1"})).await.ok();
    let shared = map(&subject, "two", "", json!({"k": "1"})).await.ok();
    assert_eq!(fields(&shared, "one")["f:data"]["f:k"], json!({}));
    assert_eq!(fields(&shared, "two")["f:data"]["f:k"], json!({}));
    let less = map(&subject, "one", "", json!({"l": "1"})).await.ok();
    assert_eq!(less["data"], json!({"k": "1", "l": "1"}));
    let none = apply(
        &subject,
        MAP,
        "two",
        "",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
    );
    let none = none.await.ok();
    assert_eq!((&none["data"], owners(&none)), (&json!({"l": "1"}), vec!["one"]));
}

// proves: API-4
#[tokio::test]
async fn force_takes_fields_over_and_a_dry_run_does_not() {
    let subject = Subject::new().await;
    map(&subject, "one", "", json!({"k": "1", "l": "1"})).await.ok();
    let dry = map(&subject, "two", "&force=true&dryRun=All", json!({"k": "2"})).await.ok();
    assert_eq!(dry["data"]["k"], "2");
    assert_eq!(subject.get(MAP).await.ok()["data"]["k"], "1");
    let forced = map(&subject, "two", "&force=true", json!({"k": "2"})).await.ok();
    assert!(fields(&forced, "one")["f:data"].get("f:k").is_none(), "{forced}");
    // The loser does not take what it no longer owns along.
    let given = map(&subject, "one", "", json!({"l": "1"})).await.ok();
    assert_eq!(given["data"], json!({"k": "2", "l": "1"}));
}

#[tokio::test]
async fn an_update_takes_fields_over_and_a_removal_forgets_them() {
    let subject = Subject::new().await;
    map(&subject, "one", "", json!({"k": "1", "l": "1", "m": "1"})).await.ok();
    let patch = json!({"data": {"k": "2", "l": null}});
    let path = format!("{MAP}?fieldManager=hand");
    let patched = subject.patch(&path, MERGE, patch).await.ok();
    assert_eq!(fields(&patched, "one")["f:data"], json!({"f:m": {}}));
    assert_eq!(fields(&patched, "hand")["f:data"], json!({"f:k": {}}));
    let message =
        map(&subject, "one", "", json!({"k": "1", "m": "1"})).await.refused(409, "Conflict");
    let expected = "Apply failed with 1 conflict: conflict with \"hand\" using v1: .data.k";
    assert_eq!(message, expected);
}

#[tokio::test]
async fn an_empty_list_of_owners_forgets_them_until_the_next_apply() {
    let subject = Subject::new().await;
    for none in [json!([{}]), json!([])] {
        map(&subject, "one", "&force=true", json!({"k": "1"})).await.ok();
        let mut object = subject.get(MAP).await.ok();
        object["metadata"]["managedFields"] = none;
        object["data"]["x"] = "1".into();
        let cleared = subject.put(&format!("{MAP}?fieldManager=hand"), object).await.ok();
        assert_eq!((owners(&cleared), &cleared["data"]["x"]), (vec![], &json!("1")));
        let updated = subject.patch(MAP, MERGE, json!({"data": {"y": "1"}})).await.ok();
        assert_eq!(owners(&updated), Vec::<&str>::new());
        let message = map(&subject, "one", "", json!({"k": "2"})).await.refused(409, "Conflict");
        let expected = "conflict with \"before-first-apply\" using v1: .data.k";
        assert!(message.ends_with(expected), "{message}");
        subject.delete(MAP).await.ok();
    }
}

#[tokio::test]
async fn configurations_that_are_none_are_refused() {
    let subject = Subject::new().await;
    map(&subject, "one", "", json!({"k": "1"})).await.ok();
    let bad = |body: Value| apply(&subject, MAP, "one", "", body);
    let name = json!({"name": "a"});
    for (body, why) in [
        (json!({"apiVersion": "v1", "metadata": name}), "/v1, Kind="),
        (json!({"kind": "ConfigMap", "metadata": name}), "/, Kind=ConfigMap"),
        (json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": name}), "/v2, Kind=ConfigMap"),
    ] {
        let message = bad(body).await.refused(400, "BadRequest");
        assert_eq!(message, format!("invalid object type: {why}"));
    }
    let typed =
        |why: &str| format!("failed to create typed patch object (/a; /v1, Kind=ConfigMap): {why}");
    let mut unknown = config_map("a", json!({}));
    unknown["foo"] = 1.into();
    let number = config_map("a", json!({"k": 1}));
    for (body, why) in [
        (unknown, ".foo: field not declared in schema"),
        (number, ".data.k: expected string, got &value.valueUnstructured{Value:1}"),
    ] {
        let answer = bad(body).await;
        assert_eq!((answer.code, &answer.body["message"]), (500, &json!(typed(why))));
    }
    let mut stale = config_map("a", json!({"k": "2"}));
    stale["metadata"]["resourceVersion"] = "1".into();
    let message = bad(stale).await.refused(409, "Conflict");
    assert!(
        message
            .starts_with("Operation cannot be fulfilled on configmaps \"a\": the object has been"),
        "{message}"
    );
    let mut other = config_map("a", json!({"k": "2"}));
    other["metadata"]["uid"] = "1234".into();
    let message = bad(other).await.refused(422, "Invalid");
    let expected =
        "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"1234\": field is immutable";
    assert_eq!(message, expected);
    let message =
        subject.patch(MAP, APPLY, config_map("a", json!({}))).await.refused(422, "Invalid");
    assert!(
        message.ends_with("fieldManager: Required value: is required for apply patch"),
        "{message}"
    );
    let message = subject.patch(&format!("{MAP}?force=true"), MERGE, json!({})).await;
    let message = message.refused(422, "Invalid");
    assert!(
        message.ends_with("force: Forbidden: may not be specified for non-apply patch"),
        "{message}"
    );
}

#[tokio::test]
async fn elements_of_keyed_lists_have_owners_of_their_own() {
    let subject = Subject::new().await;
    let with = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    apply(&subject, DEPLOYMENT, "one", "", deployment("d")).await.ok();
    let sidecar = json!([{"name": "s", "image": "s:1", "env": [{"name": "A", "value": "1"}]}]);
    let object = apply(&subject, DEPLOYMENT, "two", "", with(sidecar)).await.ok();
    let names = |object: &Value| -> Vec<String> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array();
        containers.expect("containers").iter().map(|c| c["name"].to_string()).collect()
    };
    assert_eq!(names(&object), ["\"a\"", "\"b\"", "\"s\""]);
    let less = with(json!([{"name": "s", "image": "s:1"}]));
    let object = apply(&subject, DEPLOYMENT, "two", "", less).await.ok();
    assert!(object["spec"]["template"]["spec"]["containers"][2].get("env").is_none(), "{object}");
    let other = with(json!([{"name": "a", "image": "x:2"}]));
    let message = apply(&subject, DEPLOYMENT, "two", "", other).await.refused(409, "Conflict");
    let expected = "conflict with \"one\": .spec.template.spec.containers[name=\"a\"].image";
    assert!(message.ends_with(expected), "{message}");
    let twice = with(json!([{"name": "s", "image": "s:1"}, {"name": "s", "image": "s:2"}]));
    let answer = apply(&subject, DEPLOYMENT, "two", "", twice).await;
    let message = answer.body["message"].as_str().unwrap_or_default();
    let expected = ".spec.template.spec.containers: duplicate entries for key [name=\"s\"]";
    assert!(answer.code == 500 && message.ends_with(expected), "{answer:?}");
}

#[tokio::test]
async fn an_apply_of_the_status_looks_at_nothing_else() {
    let subject = Subject::new().await;
    let mut body = deployment("d");
    body["spec"]["replicas"] = 0.into();
    apply(&subject, DEPLOYMENT, "one", "", body).await.ok();
    let status = format!("{DEPLOYMENT}/status");
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 8}, "status": {"conditions": [{"type": "Mine", "status": "True"}]}});
    let object = apply(&subject, &status, "ctl", "&force=true", body).await.ok();
    assert_eq!(
        (&object["spec"]["replicas"], &object["metadata"]["generation"]),
        (&json!(0), &json!(1))
    );
    let own = object["metadata"]["managedFields"].as_array().expect("owners").iter();
    let own = own.clone().find(|e| e["manager"] == "ctl").expect("an owner");
    assert!(own["subresource"] == "status" && own["fieldsV1"].get("f:spec").is_none(), "{own}");
    let missing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "zz"}, "status": {}});
    let path = status.replace("/d/", "/zz/");
    apply(&subject, &path, "ctl", "", missing).await.refused(404, "NotFound");
}
