//! # Tests of schemas
//!
//! Job: pruning, defaults and limits. May touch: schemas. Must not touch: the store.
//! Callers: cargo test.

use serde_json::json;

use super::*;

fn link() -> TypeRef {
    custom_kind(&json!({"type": "object", "properties": {"spec": {
    "type": "object", "required": ["port"],
    "properties": {
        "port": {"type": "integer", "minimum": 1},
        "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}}))
}

#[test]
fn drops_what_a_definition_does_not_name() {
    let mut object = json!({
        "apiVersion": "x/v1", "kind": "Link", "metadata": {"name": "l", "colour": "red"},
        "spec": {"port": 1, "what": 2, "free": {"any": 1}}});
    let findings = prune(&mut object, link().get(), false);
    assert_eq!(findings.unknown, ["metadata.colour", "spec.what"]);
    assert_eq!(object["spec"], json!({"port": 1, "free": {"any": 1}}));
    fill_defaults(&mut object, link().get());
    assert_eq!(object["spec"]["mode"], "a");
}

#[test]
fn words_breaches_as_kubernetes_does() {
    let object = json!({"spec": {"mode": "c", "port": "x"}});
    let mut errors = Vec::new();
    validate(&object, link().get(), "", &mut errors);
    let lines: Vec<_> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
    assert_eq!(
        lines,
        [
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            "spec.port: Invalid value: \"string\": spec.port in body must be of type integer: \"string\"",
        ]
    );
}

#[test]
fn knows_merge_keys_of_built_in_kinds() {
    let pod = builtin_kind("", "v1", "Pod");
    let spec = pod.get().field("spec").expect("spec");
    let containers = spec.field("containers").expect("containers").node;
    assert_eq!(containers.list, ListType::Map(vec!["name".into()]));
    assert_eq!(containers.patch.key.as_deref(), Some("name"));
    let mut object = json!({"spec": {"containers": [{"name": "a", "imag": "x", "ports": null}]}});
    let findings = prune(&mut object, pod.get(), true);
    assert_eq!(findings.unknown, ["spec.containers[0].imag"]);
    assert_eq!(object["spec"]["containers"][0], json!({"name": "a"}));
}
