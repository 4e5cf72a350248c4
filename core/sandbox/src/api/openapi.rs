//! # OpenAPI v3
//!
//! Job: the schema documents that kubectl validates, explains and patches by: one a group and version.
//! May touch: the registry, the schema file. Must not touch: objects.
//! Callers: `serve`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    registry::{Resource, Served, Verbs},
    serve::Reply,
    status::ApiError,
};
use crate::schema::{DEFINITIONS, OBJECT_META};

const REF: &str = "#/components/schemas/";

/// `/openapi/v3` or one of the documents that it lists.
pub(crate) fn document(served: &Served, path: &str) -> Result<Reply, ApiError> {
    let rest = path.strip_prefix("/openapi/v3").unwrap_or_default().trim_matches('/');
    if rest.is_empty() {
        return Ok(Reply::ok(index(served)));
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(ApiError::no_such_path()),
    };
    let resources: Vec<_> = served.of(group, version).collect();
    if resources.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for resource in resources {
        add_schema(resource, &mut schemas);
        add_paths(resource, &mut paths);
    }
    Ok(Reply::ok(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.34.4"},
        "paths": paths, "components": {"schemas": schemas},
    })))
}

/// `/openapi/v2`, which kubectl reads (as protobuf) only for kinds that version 3 does not know: a
/// document that says no more than its version, so that the answer is "no such kind".
pub(crate) fn empty_v2() -> Reply {
    const SWAGGER_2_0: &[u8] = b"\x0a\x032.0";
    Reply::Bytes(
        bytes::Bytes::from_static(SWAGGER_2_0),
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    )
}

fn index(served: &Served) -> Value {
    let mut paths = Map::new();
    for (group, versions) in served.groups() {
        for version in versions {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            let mut digest = Sha256::new();
            for resource in served.of(&group, &version) {
                digest.update(&resource.kind);
                if let Some(custom) = &resource.custom {
                    digest.update(custom.open_api.to_string());
                }
            }
            let hash: String = digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn add_schema(resource: &Resource, schemas: &mut Map<String, Value>) {
    if let Some(custom) = &resource.custom {
        let mut schema = custom.open_api.clone();
        schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
        schema["properties"]["metadata"] =
            json!({"allOf": [{"$ref": format!("{REF}{OBJECT_META}")}]});
        schema["properties"]["apiVersion"] = json!({"type": "string"});
        schema["properties"]["kind"] = json!({"type": "string"});
        schemas.insert(custom_name(resource), schema);
        add_definition(OBJECT_META, schemas);
        return;
    }
    if let Some(name) = definition_name(resource) {
        add_definition(&name, schemas);
    }
    for name in ["DeleteOptions", "Status"] {
        add_definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"), schemas);
    }
}

/// The name of a custom kind's schema: its group reversed, version, kind.
fn custom_name(resource: &Resource) -> String {
    let reversed: Vec<_> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

fn definition_name(resource: &Resource) -> Option<String> {
    let wanted = gvk(resource);
    let definitions = DEFINITIONS.as_object()?;
    definitions.iter().find_map(|(name, definition)| {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array()?;
        kinds.contains(&wanted).then(|| name.clone())
    })
}

/// A definition with everything that it refers to.
fn add_definition(name: &str, schemas: &mut Map<String, Value>) {
    let mut todo = BTreeSet::from([name.to_owned()]);
    while let Some(name) = todo.pop_first() {
        if schemas.contains_key(&name) {
            continue;
        }
        let Some(definition) = DEFINITIONS.get(&name) else { continue };
        collect_references(definition, &mut todo);
        schemas.insert(name, with_wrapped_references(definition));
    }
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(|r| r.as_str()?.strip_prefix(REF)) {
                found.insert(name.to_owned());
            }
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

/// The schema file has bare references; in OpenAPI 3.0 whatever stands beside one is ignored, so the
/// real documents wrap it.
fn with_wrapped_references(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out: Map<String, Value> = map
                .iter()
                .filter(|(name, value)| *name != "$ref" || !value.is_string())
                .map(|(name, value)| (name.clone(), with_wrapped_references(value)))
                .collect();
            if let Some(reference @ Value::String(_)) = map.get("$ref") {
                if out.is_empty() {
                    return json!({"$ref": reference});
                }
                out.insert("allOf".into(), json!([{"$ref": reference}]));
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(with_wrapped_references).collect()),
        other => other.clone(),
    }
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "kind": resource.kind, "version": resource.version})
}

/// Just enough paths for clients to learn which parameters a write takes.
fn add_paths(resource: &Resource, paths: &mut Map<String, Value>) {
    let base = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.plural);
    let operation = |action: &str, parameters: &[&str]| {
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|name| {
                let schema = if *name == "force" { "boolean" } else { "string" };
                json!({"name": name, "in": "query", "schema": {"type": schema, "uniqueItems": true}})
            })
            .collect();
        json!({
            "operationId": format!("{action}{}{}{}", capital(&resource.group), capital(&resource.version), resource.kind),
            "parameters": parameters, "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(resource),
        })
    };
    let writing = ["dryRun", "fieldManager", "fieldValidation"];
    let mut on_collection = json!({"post": operation("post", &writing)});
    if resource.verbs == Verbs::All {
        on_collection["get"] =
            operation("list", &["fieldSelector", "labelSelector", "limit", "continue"]);
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation("get", &[]),
                "put": operation("put", &writing),
                "patch": operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
                "delete": operation("delete", &["dryRun", "propagationPolicy"]),
            }),
        );
    }
    paths.insert(collection, on_collection);
}

fn capital(text: &str) -> String {
    let mut chars = text.chars().filter(char::is_ascii_alphanumeric);
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}
