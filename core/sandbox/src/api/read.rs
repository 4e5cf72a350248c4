//! # Reading
//!
//! Job: get and list: selectors, pages, tables, the version that was asked for.
//! May touch: the store, reading. Must not touch: the store, writing.
//! Callers: `serve`; writes use `present` for their answers.

use std::sync::Arc;

use ::base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    kinds::{events, scale as scales},
    options,
    registry::Resource,
    request::{Accept, Call},
    selector::{Fields, Labels},
    serve::Reply,
    status::{ApiError, Extra},
    table,
};
use crate::store::Stored;

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// The version that a client sees of a stored object.
pub(crate) fn present(resource: &Resource, value: &Value) -> Value {
    let mut value = value.clone();
    if resource.group == "events.k8s.io" {
        return events::to_events_v1(value);
    }
    if resource.version != resource.storage_version {
        value["apiVersion"] = resource.api_version().into();
        // No conversion but the version's own schema: what it does not name is not shown.
        crate::schema::prune(&mut value, resource.schema.get(), false);
    }
    value
}

/// The JSON of what a client sees; the stored bytes when that is the same.
pub(crate) fn present_json(resource: &Resource, object: &Stored, accept: &Accept) -> Bytes {
    let as_stored =
        resource.version == resource.storage_version && resource.group != "events.k8s.io";
    if as_stored && !accept.metadata_only {
        return object.json().clone();
    }
    let mut value = present(resource, &object.value);
    if accept.metadata_only {
        value = metadata_only(&value);
    }
    serde_json::to_vec(&value).unwrap_or_default().into()
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn metadata_only(value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": value["metadata"],
    })
}

/// A single object as the client wants to see it.
pub(crate) fn object_reply(call: &Call, code: u16, value: &Value) -> Reply {
    let value = present(&call.resource, value);
    if call.accept.table {
        return Reply::Json(code, table::of_object(call, &value));
    }
    if call.accept.metadata_only {
        return Reply::Json(code, metadata_only(&value));
    }
    Reply::Json(code, value)
}

/// What a list or watch selects.
pub(crate) struct Selection {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
    pub(crate) namespace: Option<String>,
    /// Some objects may not be selected.
    selects: bool,
}

impl Selection {
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(call.query.get("fieldSelector"), &call.resource.table)?;
        if !call.name.is_empty() {
            fields = Fields::parse(&format!("metadata.name={}", call.name), &call.resource.table)?;
        }
        Ok(Self {
            labels: Labels::parse(call.query.get("labelSelector"))?,
            fields,
            namespace: (!call.namespace.is_empty()).then(|| call.namespace.clone()),
            selects: ["fieldSelector", "labelSelector"]
                .iter()
                .any(|s| !call.query.get(s).is_empty()),
        })
    }

    pub(crate) fn matches(&self, value: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|ns| super::object::meta(value, "namespace") == ns)
            && self.fields.matches(value)
            && self.labels.matches(value)
    }
}

pub(crate) fn get(call: &Call) -> Result<Reply, ApiError> {
    options::revision(call, call.shared.store.revision())?;
    let object = find(call)?;
    if call.accept.table || call.accept.metadata_only {
        return Ok(object_reply(call, 200, &object.value));
    }
    Ok(Reply::Bytes(present_json(&call.resource, &object, &call.accept), "application/json"))
}

/// The object that a request names.
pub(crate) fn find(call: &Call) -> Result<Arc<Stored>, ApiError> {
    call.shared.store.get(&call.resource.table, &call.key()).ok_or_else(|| call.not_found())
}

pub(crate) fn scale(call: &Call) -> Result<Reply, ApiError> {
    let object = find(call)?;
    Ok(Reply::ok(scales::of(&call.resource, &object.value)))
}

pub(crate) fn list(call: &Call) -> Result<Reply, ApiError> {
    let selection = Selection::of(call)?;
    let start = Position::of(call)?;
    let (revision, objects) = state(call, &selection, start.as_ref())?;
    let mut matching = objects
        .into_iter()
        .filter(|object| start.as_ref().is_none_or(|start| start.precedes(&object.value)))
        .filter(|object| selection.matches(&object.value));
    let limit = call.query.number("limit").unwrap_or(0) as usize;
    let page: Vec<_> = if limit > 0 {
        matching.by_ref().take(limit).collect()
    } else {
        matching.by_ref().collect()
    };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let remaining = matching.count();
    if remaining > 0
        && let Some(last) = page.last()
    {
        metadata["continue"] = Position::after(&last.value).token(Some(revision)).into();
        if !selection.selects {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    if call.accept.table {
        let values: Vec<_> = page.iter().map(|o| present(&call.resource, &o.value)).collect();
        return Ok(Reply::ok(table::of_list(call, &values, metadata)));
    }
    Ok(Reply::Bytes(list_json(call, &page, &metadata), "application/json"))
}

/// Writes a list from the objects' cached JSON.
fn list_json(call: &Call, page: &[Arc<Stored>], metadata: &Value) -> Bytes {
    let (kind, api_version) = if call.accept.metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (call.resource.list_kind.clone(), call.resource.api_version())
    };
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(kind),
        json!(api_version)
    );
    let mut out = head.into_bytes();
    for (index, object) in page.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&present_json(&call.resource, object, &call.accept));
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// The objects of the state that a list asks for, and its revision: a page after the first is of the same state as the
/// first.
fn state(
    call: &Call,
    selection: &Selection,
    start: Option<&Position>,
) -> Result<(u64, Vec<Arc<Stored>>), ApiError> {
    let (store, table) = (&call.shared.store, &call.resource.table);
    let namespace = selection.namespace.as_deref();
    let asked = options::revision(call, store.revision())?;
    if let Some(start) = start {
        let Some(revision) = start.revision else { return Ok(store.list(table, namespace)) };
        if asked.is_some_and(|revision| revision > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return match store.list_at(table, namespace, revision) {
            Ok(objects) => Ok((revision, objects)),
            Err(_) => {
                let mut error = ApiError::expired(CONTINUE_EXPIRED);
                error.extra = Some(Box::new(Extra::Continue(start.token(None))));
                Err(error)
            }
        };
    }
    match asked.filter(|_| call.query.get("resourceVersionMatch") == "Exact") {
        None => Ok(store.list(table, namespace)),
        Some(revision) => {
            store.list_at(table, namespace, revision).map(|objects| (revision, objects)).map_err(
                |_| ApiError::expired("The resourceVersion for the provided list is too old."),
            )
        }
    }
}

/// Where a page of a list ended.
struct Position {
    namespace: String,
    name: String,
    /// Of which state; without one, of the present one.
    revision: Option<u64>,
}

impl Position {
    fn after(value: &Value) -> Self {
        Self {
            namespace: super::object::meta(value, "namespace").to_owned(),
            name: super::object::meta(value, "name").to_owned(),
            revision: None,
        }
    }

    fn of(call: &Call) -> Result<Option<Self>, ApiError> {
        let token = call.query.get("continue");
        if token.is_empty() {
            return Ok(None);
        }
        let parsed = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|value| {
                let (namespace, name) = value["start"].as_str()?.split_once('/')?;
                // A negative revision stands for the present state.
                let revision = value["rv"].as_i64().map(u64::try_from)?.ok();
                Some(Self { namespace: namespace.to_owned(), name: name.to_owned(), revision })
            });
        match parsed {
            Some(position) => Ok(Some(position)),
            None => Err(ApiError::bad_request(format!(
                "invalid continue token: continue key is not valid: {token:?}"
            ))),
        }
    }

    fn precedes(&self, value: &Value) -> bool {
        let key = (super::object::meta(value, "namespace"), super::object::meta(value, "name"));
        (self.namespace.as_str(), self.name.as_str()) < key
    }

    fn token(&self, revision: Option<u64>) -> String {
        let start = format!("{}/{}", self.namespace, self.name);
        let revision = revision.map_or(json!(-1), Into::into);
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }
}
