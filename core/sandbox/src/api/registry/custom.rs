//! # Custom kinds
//!
//! Job: turns a CustomResourceDefinition into the resources that it serves.
//! May touch: schemas. Must not touch: the store.
//! Callers: `registry`, the definition's own strategy.

use serde_json::{Value, json};

use super::{CustomFacts, Resource, Subresource, Verbs};
use crate::{
    api::{
        kinds,
        object::{at, list, text},
    },
    schema::{self, TypeRef},
};

/// One of `additionalPrinterColumns`.
#[derive(Clone, Debug)]
pub(crate) struct PrinterColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) json_path: String,
    /// 0 is always shown, more only with `-o wide`.
    pub(crate) priority: i64,
}

/// Sort key of a version name; the greatest is preferred: GA over beta over alpha, then by number.
pub(crate) type VersionOrder = (u8, u64, u64, std::cmp::Reverse<String>);

/// Kubernetes' order of version names.
pub(crate) fn version_order(version: &str) -> VersionOrder {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((3, major, 0));
        }
        let (rank, number) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(number), _) => (2, number),
            (_, Some(number)) => (1, number),
            _ => return None,
        };
        Some((rank, major, number.parse().ok()?))
    });
    let (rank, major, minor) = parsed.unwrap_or((0, 0, 0));
    (rank, major, minor, std::cmp::Reverse(version.to_owned()))
}

/// The resources that a definition serves; none if it is on its way out or its names are not accepted.
pub(super) fn resources(definition: &Value) -> Vec<Resource> {
    let versions = list(definition, &["spec", "versions"]);
    let storage = versions
        .iter()
        .find(|v| v["storage"] == json!(true))
        .and_then(|v| v["name"].as_str())
        .unwrap_or_default();
    versions
        .iter()
        .filter(|v| v["served"] == json!(true))
        .map(|version| resource(definition, version, storage))
        .collect()
}

fn resource(definition: &Value, version: &Value, storage: &str) -> Resource {
    let name = |field: &str| text(definition, &["spec", "names", field]).to_owned();
    let names = |field: &str| -> Vec<String> {
        list(definition, &["spec", "names", field])
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let group = text(definition, &["spec", "group"]).to_owned();
    let open_api = at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or(json!({}));
    let mut subresources = Vec::new();
    if at(version, &["subresources", "status"]).is_some() {
        subresources.push(Subresource::Status);
    }
    let scale = at(version, &["subresources", "scale"]).map(|scale| {
        subresources.push(Subresource::Scale);
        ["specReplicasPath", "statusReplicasPath", "labelSelectorPath"]
            .map(|field| text(scale, &[field]).to_owned())
    });
    let strategy = if subresources.contains(&Subresource::Status) {
        &kinds::CUSTOM_STATUS
    } else {
        &kinds::CUSTOM
    };
    let (singular, list_kind) = (name("singular"), name("listKind"));
    let kind = name("kind");
    Resource {
        version: text(version, &["name"]).to_owned(),
        list_kind: if list_kind.is_empty() { format!("{kind}List") } else { list_kind },
        singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
        table: format!("{group}/{}", name("plural")),
        plural: name("plural"),
        short_names: names("shortNames"),
        categories: names("categories"),
        namespaced: text(definition, &["spec", "scope"]) == "Namespaced",
        storage_version: storage.to_owned(),
        verbs: Verbs::All,
        subresources,
        schema: custom_type(&open_api),
        strategy,
        deprecation: deprecation(definition, version),
        custom: Some(CustomFacts { columns: columns(version), scale, open_api }),
        group,
        kind,
    }
}

fn deprecation(definition: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != json!(true) {
        return None;
    }
    if let Some(warning) = version["deprecationWarning"].as_str() {
        return Some(warning.to_owned());
    }
    let own = text(version, &["name"]);
    let (group, kind) =
        (text(definition, &["spec", "group"]), text(definition, &["spec", "names", "kind"]));
    let better = list(definition, &["spec", "versions"])
        .iter()
        .filter(|v| v["served"] == json!(true) && v["deprecated"] != json!(true))
        .map(|v| text(v, &["name"]))
        .max_by_key(|name| version_order(name))
        .filter(|name| version_order(name) > version_order(own));
    let instead = better.map(|name| format!("; use {group}/{name} {kind}")).unwrap_or_default();
    Some(format!("{group}/{own} {kind} is deprecated{instead}"))
}

fn custom_type(open_api: &Value) -> TypeRef {
    schema::custom_kind(open_api)
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    list(version, &["additionalPrinterColumns"])
        .iter()
        .map(|column| PrinterColumn {
            name: text(column, &["name"]).to_owned(),
            kind: text(column, &["type"]).to_owned(),
            json_path: text(column, &["jsonPath"]).to_owned(),
            priority: column["priority"].as_i64().unwrap_or(0),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_ga_over_beta_over_alpha() {
        let mut versions = ["v1alpha1", "v1", "v1beta2", "foo", "v1alpha3", "v2"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_order(v)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1alpha3", "v1alpha1", "foo"]);
    }
}
