//! # Failures as Kubernetes words them
//!
//! Job: one error type for every request, and its form on the wire (a `Status` object) with the sentences,
//! reasons and details that kubectl and client libraries look at.
//! May touch: JSON values. Must not touch: the store, sockets.
//! Callers: every part of the API server.

use std::borrow::Cow;

use serde_json::{Value, json};

/// A request that failed; it becomes a `Status` object.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What few failures have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Extra {
    /// Takes the place of the reason's word.
    Word(String),
    /// Where a list that cannot go on as it was may go on nevertheless.
    Continue(String),
}

/// Why a request failed, in Kubernetes' vocabulary; each has one HTTP status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Expired,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    RequestEntityTooLarge,
    InternalError,
    Timeout,
    /// A code without a word: a webhook's own, for example.
    Other(u16),
}

impl Reason {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::InternalError => 500,
            Self::Timeout => 504,
            Self::Other(code) => code,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::InternalError => "InternalError",
            Self::Timeout => "Timeout",
            Self::Other(_) => "",
        }
    }
}

/// One field of an object that breaks a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) kind: FieldErrorKind,
    pub(crate) message: String,
}

/// The kinds of field errors that Kubernetes distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TypeInvalid,
    TooLong,
    TooMany,
}

impl FieldError {
    /// `spec.x: Required value[: why]`.
    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        Self { field: field.into(), kind: FieldErrorKind::Required, message }
    }

    /// `spec.x: Invalid value: "v": why`; the value is printed as Go prints it.
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {}: {why}", go_print(value));
        Self { field: field.into(), kind: FieldErrorKind::Invalid, message }
    }

    /// `spec.x: Unsupported value: "v": supported values: "a", "b"`.
    pub(crate) fn not_supported(
        field: impl Into<String>,
        value: &Value,
        supported: &[impl AsRef<str>],
    ) -> Self {
        let list: Vec<_> = supported.iter().map(|s| format!("{:?}", s.as_ref())).collect();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            go_print(value),
            list.join(", ")
        );
        Self { field: field.into(), kind: FieldErrorKind::NotSupported, message }
    }

    /// `spec.x: Duplicate value: "v"`.
    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", go_print(value));
        Self { field: field.into(), kind: FieldErrorKind::Duplicate, message }
    }

    /// `spec.x: Forbidden: why`.
    pub(crate) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self {
            field: field.into(),
            kind: FieldErrorKind::Forbidden,
            message: format!("Forbidden: {why}"),
        }
    }

    fn cause(&self) -> Value {
        let reason = match self.kind {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
        };
        json!({"reason": reason, "message": self.message, "field": self.field})
    }
}

/// A value as Go's `%#v`-like printer in Kubernetes shows it: strings quoted, objects as JSON.
pub(crate) fn go_print(value: &Value) -> Cow<'static, str> {
    match value {
        Value::Null => "null".into(),
        other => other.to_string().into(),
    }
}

/// `plural` or `plural.group`, as messages name a resource.
pub(crate) fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl ApiError {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None, extra: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        let mut error =
            Self::new(Reason::InternalError, format!("Internal error occurred: {message}"));
        error.details = Some(json!({"causes": [{"message": message.to_string()}]}));
        error
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// The path names nothing that is served.
    pub(crate) fn no_such_path() -> Self {
        let mut error =
            Self::new(Reason::NotFound, "the server could not find the requested resource");
        error.details = Some(json!({}));
        error
    }

    pub(crate) fn not_found(plural: &str, group: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(plural, group));
        Self::named(Reason::NotFound, message, plural, group, name)
    }

    pub(crate) fn already_exists(plural: &str, group: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(plural, group));
        Self::named(Reason::AlreadyExists, message, plural, group, name)
    }

    pub(crate) fn conflict(plural: &str, group: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(plural, group)
        );
        Self::named(Reason::Conflict, message, plural, group, name)
    }

    /// The conflict of a stale resourceVersion.
    pub(crate) fn modified(plural: &str, group: &str, name: &str) -> Self {
        Self::conflict(
            plural,
            group,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn forbidden(plural: &str, group: &str, name: &str, why: &str) -> Self {
        let what = qualified(plural, group);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {name:?} is forbidden: {why}")
        };
        Self::named(Reason::Forbidden, message, plural, group, name)
    }

    pub(crate) fn invalid(kind: &str, group: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for error in errors {
            let line = format!("{}: {}", error.field, error.message);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(kind, group));
        let causes: Vec<_> = errors.iter().map(FieldError::cause).collect();
        let mut error = Self::named(Reason::Invalid, message, kind, group, name);
        if let Some(details) = &mut error.details {
            details["causes"] = Value::Array(causes);
        }
        error
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    fn named(reason: Reason, message: String, plural: &str, group: &str, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", plural)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        let details = Some(Value::Object(details));
        Self { details, ..Self::new(reason, message) }
    }

    pub(crate) fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The `Status` object for the wire.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message,
        });
        if !self.reason.word().is_empty() {
            status["reason"] = self.reason.word().into();
        }
        match self.extra.as_deref() {
            Some(Extra::Word(word)) => status["reason"] = word.clone().into(),
            Some(Extra::Continue(token)) => status["metadata"]["continue"] = token.clone().into(),
            None => {}
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = self.code().into();
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_a_missing_object_as_kubernetes_does() {
        let error = ApiError::not_found("deployments", "apps", "web");
        assert_eq!(error.message, "deployments.apps \"web\" not found");
        assert_eq!(error.status()["details"]["kind"], "deployments");
        assert_eq!(error.status()["code"], 404);
    }

    #[test]
    fn lists_several_field_errors_in_brackets() {
        let errors = [
            FieldError::required("spec.a", ""),
            FieldError::invalid("spec.b", &json!("x"), "must be a number"),
        ];
        let error = ApiError::invalid("Thing", "example.com", "t", &errors);
        assert_eq!(
            error.message,
            "Thing.example.com \"t\" is invalid: [spec.a: Required value, \
             spec.b: Invalid value: \"x\": must be a number]"
        );
        assert_eq!(error.status()["details"]["causes"][0]["reason"], "FieldValueRequired");
    }
}
