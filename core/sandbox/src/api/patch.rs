//! # Patches
//!
//! Job: the patch types that change a document: JSON, merge and strategic merge. Apply lies in `managed`.
//! May touch: JSON, schemas. Must not touch: the store.
//! Callers: `serve`, `write`.

mod strategic;

use bytes::Bytes;
use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use serde_json::{Value, json};

use super::{
    request::Call,
    status::{ApiError, Reason},
};
use crate::schema::Type;

/// The four forms of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    /// By the request's content type.
    ///
    /// # Errors
    /// Unsupported media type; strategic merge is for built-in kinds only.
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let media = call.content_type.split(';').next().unwrap_or_default().trim();
        let strategic = call.resource.builtin();
        match media {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if strategic => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => {
                let merge = if strategic { ", application/strategic-merge-patch+json" } else { "" };
                Err(ApiError::new(
                    Reason::UnsupportedMediaType,
                    format!(
                        "the body of the request was in an unknown format - accepted media types include: \
                         application/json-patch+json, application/merge-patch+json{merge}, \
                         application/apply-patch+yaml"
                    ),
                ))
            }
        }
    }
}

/// A parsed patch.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    pub(crate) fn parse(call: &Call, kind: PatchType, body: &Bytes) -> Result<Self, ApiError> {
        let value: Value = super::serve::parse_yaml(body)
            .map_err(|e| ApiError::bad_request(format!("error decoding patch: {}", e.message)))?;
        match kind {
            PatchType::Json => serde_json::from_value(value)
                .map(Self::Json)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}"))),
            _ if !value.is_object() => Err(ApiError::bad_request(format!(
                "error decoding patch of {} {:?}: it is not an object",
                call.resource.plural, call.name
            ))),
            PatchType::Strategic => Ok(Self::Strategic(value)),
            PatchType::Merge | PatchType::Apply => Ok(Self::Merge(value)),
        }
    }

    /// Changes the document; the type gives the merge keys of a strategic merge.
    pub(crate) fn apply(&self, document: &mut Value, ty: Option<Type<'_>>) -> Result<(), ApiError> {
        match self {
            Self::Json(patch) => apply_json(document, patch).map_err(|e| {
                tracing::debug!(error = %e, "a JSON patch does not fit");
                let mut error = ApiError::new(
                    Reason::Invalid,
                    "the server rejected our request due to an error in our request",
                );
                error.details = Some(json!({}));
                error
            }),
            Self::Merge(patch) => {
                json_patch::merge(document, patch);
                Ok(())
            }
            Self::Strategic(patch) => strategic::merge(document, patch, ty),
        }
    }
}

/// Applies a JSON patch as Kubernetes' own library does: what is replaced in a map need not be there.
///
/// # Errors
/// The patch does not fit; the document is then half changed.
pub(crate) fn apply_json(
    document: &mut Value,
    patch: &json_patch::Patch,
) -> Result<(), json_patch::PatchError> {
    for operation in &patch.0 {
        let mut operation = operation.clone();
        if let PatchOperation::Replace(ReplaceOperation { path, value }) = &operation
            && let Some((parent, _)) = path.as_str().rsplit_once('/')
            && document.pointer(path.as_str()).is_none()
            && document.pointer(parent).is_some_and(Value::is_object)
        {
            let (path, value) = (path.clone(), value.clone());
            operation = PatchOperation::Add(AddOperation { path, value });
        }
        json_patch::patch(document, std::slice::from_ref(&operation))?;
    }
    Ok(())
}
