//! # Metadata on the wire
//!
//! Job: `meta.Metadata` and the older label maps of inbound policies. Callers: the files of this crate.

use crate::Invalid;
use linkerd2_proxy_api::meta as api;
use mesh_model::meta::{Meta, Resource};
use std::collections::HashMap;

pub(crate) fn to_proto(meta: &Meta) -> api::Metadata {
    let kind = match meta {
        Meta::Default(name) => api::metadata::Kind::Default(name.to_string()),
        Meta::Resource(r) => api::metadata::Kind::Resource(api::Resource {
            group: r.group.clone(),
            kind: r.kind.clone(),
            name: r.name.clone(),
            namespace: r.namespace.clone(),
            section: r.section.clone(),
            port: r.port.into(),
        }),
    };
    api::Metadata { kind: Some(kind) }
}

pub(crate) fn from_proto(
    field: &'static str,
    meta: Option<api::Metadata>,
) -> Result<Meta, Invalid> {
    match meta.and_then(|m| m.kind).ok_or(Invalid::Missing(field))? {
        api::metadata::Kind::Default(name) => Ok(Meta::Default(name.into())),
        api::metadata::Kind::Resource(r) => Ok(Meta::Resource(
            Resource {
                port: u16::try_from(r.port).map_err(|e| Invalid::value(field, e))?,
                group: r.group,
                kind: r.kind,
                namespace: r.namespace,
                name: r.name,
                section: r.section,
            }
            .into(),
        )),
    }
}

/// The label map that says the same: kinds in lower case, `default` with an empty group for built-ins.
pub(crate) fn to_labels(meta: &Meta) -> HashMap<String, String> {
    HashMap::from([
        ("group".to_owned(), meta.group().to_owned()),
        ("kind".to_owned(), meta.kind().to_ascii_lowercase()),
        ("name".to_owned(), meta.name().to_owned()),
    ])
}

/// A map with only a name is a built-in (controllers before 2.12 sent such).
pub(crate) fn from_labels(
    field: &'static str,
    mut labels: HashMap<String, String>,
) -> Result<Meta, Invalid> {
    let name = labels.remove("name").ok_or(Invalid::Missing(field))?;
    match labels.remove("kind") {
        None => Ok(Meta::Default(name.into())),
        Some(kind) if kind == "default" => Ok(Meta::Default(name.into())),
        Some(kind) => {
            let group = labels.remove("group").unwrap_or_default();
            Ok(Meta::Resource(Resource { group, kind, name, ..Resource::default() }.into()))
        }
    }
}
