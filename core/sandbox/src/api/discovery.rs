//! # Discovery
//!
//! Job: tells clients which groups, versions and resources are served, group by group or all at once.
//! May touch: the registry. Must not touch: objects.
//! Callers: `serve`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    registry::{Resource, Served, Subresource, Verbs},
    serve::Reply,
    status::ApiError,
};

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "34", "gitVersion": "v1.34.4+mesh-sandbox",
        "gitCommit": "0000000000000000000000000000000000000000", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A discovery document by its path.
pub(crate) fn document(
    served: &Served,
    path: &str,
    aggregated: bool,
    addr: SocketAddr,
) -> Result<Reply, ApiError> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [] => Ok(Reply::ok(json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez",
            "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]}))),
        ["api"] if aggregated => Ok(group_list(served, |group| group.is_empty())),
        ["apis"] if aggregated => Ok(group_list(served, |group| !group.is_empty())),
        ["api"] => Ok(Reply::ok(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": addr.to_string()}],
        }))),
        ["apis"] => {
            let groups: Vec<Value> = served
                .groups()
                .iter()
                .filter(|(group, _)| !group.is_empty())
                .map(|(group, versions)| group_object(group, versions, false))
                .collect();
            Ok(Reply::ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["apis", name] => {
            let groups = served.groups();
            let group = groups.iter().find(|(group, _)| group == name && !group.is_empty());
            let (group, versions) = group.ok_or_else(ApiError::no_such_path)?;
            Ok(Reply::ok(group_object(group, versions, true)))
        }
        ["api", version] => resource_list(served, "", version),
        ["apis", group, version] => resource_list(served, group, version),
        _ => Err(ApiError::no_such_path()),
    }
}

fn group_object(group: &str, versions: &[String], whole: bool) -> Value {
    let entry = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let mut object = json!({
        "name": group, "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    });
    if whole {
        object["kind"] = "APIGroup".into();
        object["apiVersion"] = "v1".into();
    }
    object
}

fn resource_list(served: &Served, group: &str, version: &str) -> Result<Reply, ApiError> {
    let mut resources = Vec::new();
    for resource in served.of(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs(resource),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = resource.short_names.clone().into();
        }
        if !resource.categories.is_empty() {
            entry["categories"] = resource.categories.clone().into();
        }
        resources.push(entry);
        for &sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name()), "singularName": "",
                "namespaced": resource.namespaced,
            });
            if let Some((group, version, kind)) = response_kind(resource, sub) {
                entry["group"] = group.into();
                entry["version"] = version.into();
                entry["kind"] = kind.into();
            } else {
                entry["kind"] = resource.kind.clone().into();
            }
            entry["verbs"] = sub_verbs(sub).into();
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(Reply::ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": resources,
    })))
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    match resource.verbs {
        Verbs::All => VERBS.to_vec(),
        Verbs::CreateOnly => vec!["create"],
    }
}

fn sub_verbs(sub: Subresource) -> Vec<&'static str> {
    match sub {
        Subresource::Status | Subresource::Scale => vec!["get", "patch", "update"],
        Subresource::Log => vec!["get"],
        Subresource::Token | Subresource::Binding | Subresource::Eviction => vec!["create"],
        Subresource::Finalize => vec!["update"],
    }
}

/// Group, version and kind of what a subresource takes, where it is not the object itself.
fn response_kind(
    resource: &Resource,
    sub: Subresource,
) -> Option<(&'static str, &'static str, &'static str)> {
    match sub {
        Subresource::Scale => Some(("autoscaling", "v1", "Scale")),
        Subresource::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
        Subresource::Eviction => Some(("policy", "v1", "Eviction")),
        Subresource::Binding if resource.plural == "pods" => Some(("", "v1", "Binding")),
        _ => None,
    }
}

/// Aggregated discovery: everything in one answer.
fn group_list(served: &Served, wanted: fn(&str) -> bool) -> Reply {
    let items: Vec<Value> = served
        .groups()
        .iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        served.of(group, version).map(|resource| aggregated(resource)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = group.clone().into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items,
    });
    Reply::Bytes(
        body.to_string().into(),
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    )
}

fn aggregated(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural, "singularResource": resource.singular,
        "responseKind": {
            "group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.clone().into();
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|&sub| {
            let (group, version, kind) = response_kind(resource, sub).unwrap_or((
                &resource.group,
                &resource.version,
                &resource.kind,
            ));
            json!({
                "subresource": sub.name(), "verbs": sub_verbs(sub),
                "responseKind": {"group": group, "version": version, "kind": kind},
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
