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
    object::{list, map_at, map_of, now, text},
    patch::{self, PatchType},
    read::{object_reply, present},
    registry::Subresource,
    request::Call,
    serve::Reply,
    status::ApiError,
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
    let mut config = super::serve::parse_yaml(&body)?;
    check_kind(call, &config)?;
    if config["metadata"].get("managedFields").is_some_and(|m| *m != json!([]) && !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    keep_part(call, &mut config);
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

fn check_kind(call: &Call, config: &Value) -> Result<(), ApiError> {
    let (api_version, kind) = (text(config, &["apiVersion"]), text(config, &["kind"]));
    if (api_version, kind) == (&call.resource.api_version(), &call.resource.kind) {
        return Ok(());
    }
    let group = if api_version.contains('/') { "" } else { "/" };
    Err(ApiError::bad_request(format!("invalid object type: {group}{api_version}, Kind={kind}")))
}

/// An apply of the status looks at nothing else, any other not at the status, which has a path of its own.
fn keep_part(call: &Call, config: &mut Value) {
    let status_apart = call.resource.has(Subresource::Status);
    match call.subresource {
        Some(Subresource::Status) => {
            map_of(config).retain(|name, _| {
                matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
        }
        None if status_apart => {
            map_of(config).remove("status");
        }
        _ => {}
    }
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
        let present = text(old, &["spec", "nodeName"]);
        if !present.is_empty() {
            let why = format!("pod {} is already assigned to node {present:?}", call.name);
            return Err(ApiError::conflict("pods/binding", "", &call.name, &why));
        }
        map_at(map_of(&mut new), "spec").insert("nodeName".into(), node.clone().into());
        let mut conditions = list(old, &["status", "conditions"]).to_vec();
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now(),
        }));
        map_at(map_of(&mut new), "status").insert("conditions".into(), conditions.into());
        // Nobody owns what the scheduler decides.
        Ok(Edited { value: new, owned: true })
    })
    .await?;
    Ok(Reply::Json(
        201,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}
