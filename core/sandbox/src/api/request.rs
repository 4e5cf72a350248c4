//! # Requests
//!
//! Job: what a URL, query and headers ask for, in types.
//! May touch: nothing but the request. Must not touch: the store.
//! Callers: `serve` and all handlers.

use std::sync::Arc;

use http::{HeaderMap, Method, header};
use parking_lot::Mutex;

use super::{
    authn::User,
    registry::{Resource, Subresource},
    shared::Shared,
    status::ApiError,
};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Discovery, health and the like.
    Path,
    /// Objects of a resource.
    Resource(ResourcePath),
}

/// The parts of a resource path; an absent part is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
}

impl Target {
    pub(crate) fn parse(path: &str) -> Self {
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
        let (group, version, rest) = match parts.as_slice() {
            [api, version, rest @ ..] if api == "api" && !rest.is_empty() => ("", version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" && !rest.is_empty() => {
                (group.as_str(), version, rest)
            }
            _ => return Self::Path,
        };
        let mut target = ResourcePath {
            group: group.to_owned(),
            version: version.clone(),
            ..ResourcePath::default()
        };
        let rest = match rest {
            [namespaces, namespace, rest @ ..]
                if namespaces == "namespaces"
                    && !rest.is_empty()
                    && !matches!(rest[0].as_str(), "status" | "finalize") =>
            {
                target.namespace.clone_from(namespace);
                rest
            }
            rest => rest,
        };
        let mut rest = rest.iter().cloned();
        target.plural = rest.next().unwrap_or_default();
        target.name = rest.next().unwrap_or_default();
        target.subresource = rest.collect::<Vec<_>>().join("/");
        Self::Resource(target)
    }
}

/// Kubernetes' verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn of(method: &Method, named: bool, watch: bool) -> Option<Self> {
        Some(match (method.as_str(), named) {
            ("GET" | "HEAD", _) if watch => Self::Watch,
            ("GET" | "HEAD", true) => Self::Get,
            ("GET" | "HEAD", false) => Self::List,
            ("POST", _) => Self::Create,
            ("PUT", _) => Self::Update,
            ("PATCH", _) => Self::Patch,
            ("DELETE", true) => Self::Delete,
            ("DELETE", false) => Self::DeleteCollection,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// A query string, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter, empty if absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "True")
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }
}

/// How the answer is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    /// `as=Table`.
    pub(crate) table: bool,
    /// `as=PartialObjectMetadata` or its list.
    pub(crate) metadata_only: bool,
    /// `as=APIGroupDiscoveryList`, version 2.
    pub(crate) aggregated_discovery: bool,
}

impl Accept {
    /// The first form that the client accepts and we can write.
    ///
    /// # Errors
    /// The client accepts nothing but other encodings (protobuf, CBOR).
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        let header = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        for option in header.split(',') {
            let mut parts = option.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "*/*" | "application/*" | "") {
                continue;
            }
            let mut accept = Self::default();
            let (mut form, mut version) = ("", "");
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("as", value)) => form = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            match (form, version) {
                ("", _) => {}
                ("Table", "v1") => accept.table = true,
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "v1") => {
                    accept.metadata_only = true;
                }
                ("APIGroupDiscoveryList", "v2") => accept.aggregated_discovery = true,
                _ => continue,
            }
            return Ok(accept);
        }
        if header.contains("application/yaml") || header.contains("text/plain") {
            return Ok(Self::default());
        }
        Err(ApiError::new(
            super::status::Reason::NotAcceptable,
            "only the following media types are accepted: application/json",
        ))
    }
}

/// One authorised request for objects of a resource.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) user: User,
    pub(crate) resource: Arc<Resource>,
    pub(crate) subresource: Option<Subresource>,
    pub(crate) verb: Verb,
    /// Empty for cluster scope and for requests over all namespaces.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) query: Query,
    /// Everything is done but the storing.
    pub(crate) dry_run: bool,
    pub(crate) accept: Accept,
    pub(crate) content_type: String,
    pub(crate) user_agent: String,
    /// Sentences for the answer's Warning headers.
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Call {
    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.resource.plural, &self.resource.group, &self.name)
    }

    pub(crate) fn key(&self) -> crate::store::Key {
        crate::store::Key::new(&self.namespace, &self.name)
    }

    pub(crate) fn warn(&self, sentence: impl Into<String>) {
        self.warnings.lock().push(sentence.into());
    }

    /// The field manager of a write that is not an apply.
    pub(crate) fn manager(&self) -> String {
        match self.query.get("fieldManager") {
            "" => {
                let agent = self.user_agent.split('/').next().unwrap_or_default();
                if agent.is_empty() { "unknown".into() } else { agent.to_owned() }
            }
            manager => manager.to_owned(),
        }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match Target::parse(path) {
            Target::Resource(path) => path,
            Target::Path => panic!("{path} names a resource"),
        }
    }

    #[test]
    fn reads_every_shape_of_path() {
        let pod = resource("/api/v1/namespaces/demo/pods/a/log");
        assert_eq!(
            (
                pod.namespace.as_str(),
                pod.plural.as_str(),
                pod.name.as_str(),
                pod.subresource.as_str()
            ),
            ("demo", "pods", "a", "log")
        );
        let namespace = resource("/api/v1/namespaces/demo/finalize");
        assert_eq!((namespace.plural.as_str(), namespace.name.as_str()), ("namespaces", "demo"));
        assert_eq!(resource("/apis/apps/v1/deployments").group, "apps");
        assert_eq!(Target::parse("/apis/apps/v1"), Target::Path);
    }

    #[test]
    fn decodes_queries() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1");
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch"));
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
