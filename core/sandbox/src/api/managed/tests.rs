//! # Tests of field owners
//!
//! Job: ownership and apply as table-like cases. May touch: objects. Must not touch: the store.
//! Callers: cargo test.

use serde_json::json;

use super::*;
use crate::schema;

fn manager(name: &str, operation: &'static str) -> Manager {
    Manager { name: name.into(), operation, api_version: "v1".into(), subresource: "" }
}

fn request(name: &str, force: bool) -> Apply {
    Apply { manager: manager(name, "Apply"), force }
}

fn service(ports: Value, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": labels},
        "spec": {"ports": ports}})
}

#[test]
fn a_second_applier_conflicts_until_it_forces() {
    let ty = schema::builtin_kind("", "v1", "Service");
    let mut live = service(json!([{"port": 80, "name": "http"}]), json!({"a": "1"}));
    let said = owned(&live, ty.get());
    record_new(&mut live, ty.get(), &manager("one", "Apply"), Some(said), true);
    let config = service(json!([{"port": 80, "name": "web"}]), json!({"b": "2"}));
    let error = apply(&live, &config, ty.get(), &request("two", false)).expect_err("conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].name"
    );
    let merged = apply(&live, &config, ty.get(), &request("two", true)).expect("forced");
    assert_eq!(merged["spec"]["ports"], json!([{"port": 80, "name": "web"}]));
    assert_eq!(merged["metadata"]["labels"], json!({"a": "1", "b": "2"}));
}

#[test]
fn what_an_applier_no_longer_says_goes_unless_another_owns_it() {
    let ty = schema::builtin_kind("", "v1", "Service");
    let first = service(json!([{"port": 80}, {"port": 90}]), json!({"a": "1", "b": "1"}));
    let mut live = first.clone();
    let said = owned(&first, ty.get());
    record_new(&mut live, ty.get(), &manager("one", "Apply"), Some(said), true);
    let shared = service(json!([{"port": 90}]), json!({"b": "1"}));
    let live = apply(&live, &shared, ty.get(), &request("two", false)).expect("same values");
    let less = service(json!([{"port": 80}]), json!({"a": "1"}));
    let live = apply(&live, &less, ty.get(), &request("one", false)).expect("no conflict");
    assert_eq!(live["metadata"]["labels"], json!({"a": "1", "b": "1"}));
    let none = service(json!([{"port": 80}]), json!({}));
    let live = apply(&live, &none, ty.get(), &request("two", false)).expect("no conflict");
    assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
    assert_eq!(live["spec"]["ports"], json!([{"port": 80}]));
}

#[test]
fn an_update_takes_what_it_changes() {
    let ty = schema::builtin_kind("", "v1", "ConfigMap");
    let mut old =
        json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}});
    let said = owned(&old, ty.get());
    record_new(&mut old, ty.get(), &manager("one", "Apply"), Some(said), true);
    let mut new = old.clone();
    new["data"]["b"] = "2".into();
    record_change(&old, &mut new, ty.get(), &manager("kubectl", "Update"));
    let owners = entries(&new);
    assert_eq!(owners[0].fields.to_json(), json!({"f:data": {"f:a": {}}}));
    assert_eq!(owners[1].fields.to_json(), json!({"f:data": {"f:b": {}}}));
}
