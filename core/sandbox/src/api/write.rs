//! # Writing
//!
//! Job: the common path of create, update and patch: decode, admit, own, validate, store.
//! May touch: the store. Must not touch: connections; what is particular to a kind lies in `kinds`.
//! Callers: `serve`.

mod change;
mod create;
mod validate;

use bytes::Bytes;
use serde_json::{Value, json};

use self::change::{Edited, change};
pub(crate) use self::create::create;
pub(crate) use super::finish::{delete, delete_collection};
use super::{
    kinds::scale as scales,
    managed,
    object::{map_at, map_of, text},
    patch::{self, PatchType},
    read::{object_reply, present},
    registry::Subresource,
    request::Call,
    serve::Reply,
    status::{ApiError, FieldError},
};

/// Replaces an object or one of its parts.
pub(crate) async fn update(call: &Call, body: Value) -> Result<Reply, ApiError> {
    if call.subresource == Some(Subresource::Scale) {
        return scale(call, &|_| Ok(body.clone())).await;
    }
    let object = change(call, &|_| Ok(Edited::plain(body.clone()))).await?;
    Ok(object_reply(call, 200, &object))
}

/// Patches an object or one of its parts; an apply may create it.
pub(crate) async fn patch(call: &Call, kind: PatchType, body: Bytes) -> Result<Reply, ApiError> {
    if kind == PatchType::Apply {
        return apply(call, body).await;
    }
    let parsed = patch::Patch::parse(call, kind, &body)?;
    if call.subresource == Some(Subresource::Scale) {
        return scale(call, &|scale| {
            let mut scale = scale.clone();
            parsed.apply(&mut scale, None)?;
            Ok(scale)
        })
        .await;
    }
    let ty = call.resource.schema.clone();
    let object = change(call, &|old| {
        let mut new = old.clone();
        parsed.apply(&mut new, Some(ty.get()))?;
        Ok(Edited::plain(new))
    })
    .await?;
    Ok(object_reply(call, 200, &object))
}

async fn apply(call: &Call, body: Bytes) -> Result<Reply, ApiError> {
    let manager = call.query.get("fieldManager");
    if manager.is_empty() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid("PatchOptions", "meta.k8s.io", "", &[error]));
    }
    let config = super::serve::parse_yaml(&body)?;
    for field in ["apiVersion", "kind"] {
        if text(&config, &[field]).is_empty() {
            return Err(ApiError::bad_request(format!("invalid object type: {field} is required")));
        }
    }
    if config["metadata"].get("managedFields").is_some_and(|m| *m != json!([]) && !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let exists = call.shared.store.get(&call.resource.table, &call.key()).is_some();
    if !exists {
        if call.subresource.is_some() {
            return Err(call.not_found());
        }
        return create::apply_new(call, config).await;
    }
    let request = managed::Apply {
        manager: managed::Manager::apply(call, manager),
        force: call.query.flag("force"),
        ignore_status: call.subresource.is_none() && call.resource.has(Subresource::Status),
    };
    let ty = call.resource.schema.clone();
    let config = super::decode::applied(call, config)?;
    let object = change(call, &|old| {
        let merged = managed::apply(old, &config, ty.get(), &request)?;
        Ok(Edited { value: merged, owned: true })
    })
    .await?;
    Ok(object_reply(call, 200, &object))
}

async fn scale(
    call: &Call,
    edit: &(dyn Fn(&Value) -> Result<Value, ApiError> + Sync),
) -> Result<Reply, ApiError> {
    let resource = &call.resource;
    let object = change(call, &|old| {
        let scale = edit(&scales::of(resource, old))?;
        let mut new = old.clone();
        scales::set(resource, &mut new, &scale);
        if let Some(version) = scale["metadata"].get("resourceVersion").filter(|v| **v != "") {
            map_at(map_of(&mut new), "metadata").insert("resourceVersion".into(), version.clone());
        }
        Ok(Edited::plain(new))
    })
    .await?;
    Ok(Reply::ok(scales::of(resource, &present(resource, &object))))
}

/// The binding subresource: gives a Pod its node.
pub(crate) async fn bind(call: &Call, body: Value) -> Result<Reply, ApiError> {
    let node = text(&body, &["target", "name"]).to_owned();
    change(call, &|old| {
        let mut new = old.clone();
        let spec = map_at(map_of(&mut new), "spec");
        if spec.get("nodeName").and_then(Value::as_str).is_some_and(|n| !n.is_empty()) {
            let why =
                format!("pod {} is already assigned to node {:?}", call.name, spec["nodeName"]);
            return Err(ApiError::conflict("pods/binding", "", &call.name, &why));
        }
        spec.insert("nodeName".into(), node.clone().into());
        Ok(Edited::plain(new))
    })
    .await?;
    Ok(Reply::Json(
        201,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}
