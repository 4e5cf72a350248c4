//! # Options of requests
//!
//! Job: checks what a request's query (or a deletion's body) asks for besides the object, with Kubernetes' sentences.
//! May touch: the request. Must not touch: the store.
//! Callers: `serve`, `read`, `watch`.

use serde_json::{Value, json};

use super::{
    object::text,
    patch::PatchType,
    request::{Call, Query, Verb},
    status::{ApiError, FieldError, FieldErrorKind, Reason},
};

const MAX_MANAGER: usize = 128;

/// Refuses options that make no sense.
///
/// # Errors
/// Bad request or Invalid, naming the option.
pub(crate) fn check(call: &Call) -> Result<(), ApiError> {
    for name in ["limit", "timeoutSeconds"] {
        let text = call.query.get(name);
        if !text.is_empty() && text.parse::<i64>().is_err() {
            let why = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
            return Err(ApiError::bad_request(why));
        }
    }
    let (kind, errors) = match call.verb {
        Verb::List | Verb::DeleteCollection => ("ListOptions", list_errors(&call.query)),
        Verb::Watch => ("ListOptions", watch_errors(&call.query)),
        Verb::Create => ("CreateOptions", write_errors(call)),
        Verb::Update => ("UpdateOptions", write_errors(call)),
        Verb::Patch => ("PatchOptions", patch_errors(call)),
        Verb::Get | Verb::Delete => return Ok(()),
    };
    refuse(kind, &errors)
}

fn refuse(kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(kind, "meta.k8s.io", "", errors))
}

fn list_errors(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (rule, version) = (query.get("resourceVersionMatch"), query.get("resourceVersion"));
    let mut forbid = |why: &str| errors.push(FieldError::forbidden("resourceVersionMatch", why));
    if !rule.is_empty() {
        if version.is_empty() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !query.get("continue").is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if rule == "Exact" && version == "0" {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(rule, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(
                "resourceVersionMatch",
                &json!(rule),
                &["Exact", "NotOlderThan", ""],
            ));
        }
    }
    if !query.get("sendInitialEvents").is_empty() {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden("sendInitialEvents", why));
    }
    errors
}

fn watch_errors(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rule = query.get("resourceVersionMatch");
    let initial = !query.get("sendInitialEvents").is_empty();
    let mut forbid = |why: &str| errors.push(FieldError::forbidden("resourceVersionMatch", why));
    if initial && rule != "NotOlderThan" {
        forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !rule.is_empty() && !initial {
        forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if !matches!(rule, "" | "NotOlderThan") {
        let supported = ["NotOlderThan"];
        errors.push(FieldError::not_supported("resourceVersionMatch", &json!(rule), &supported));
    }
    errors
}

fn write_errors(call: &Call) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let manager = call.query.get("fieldManager");
    if manager.len() > MAX_MANAGER {
        errors.push(FieldError {
            field: "fieldManager".into(),
            kind: FieldErrorKind::TooLong,
            message: format!("Too long: may not be more than {MAX_MANAGER} bytes"),
        });
    }
    if let Some((position, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {position})", u32::from(c));
        errors.push(FieldError::invalid("fieldManager", &json!(manager), &why));
    }
    errors.extend(dry_run_error(&given(&call.query, "dryRun")));
    let validation = call.query.get("fieldValidation");
    if !matches!(validation, "" | "Ignore" | "Strict" | "Warn") {
        let supported = ["", "Ignore", "Strict", "Warn"];
        errors.push(FieldError::not_supported("fieldValidation", &json!(validation), &supported));
    }
    errors
}

fn patch_errors(call: &Call) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if matches!(PatchType::of(call), Ok(PatchType::Apply)) {
        if call.query.get("fieldManager").is_empty() {
            errors.push(FieldError::required("fieldManager", "is required for apply patch"));
        }
    } else if !call.query.get("force").is_empty() {
        errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    errors.extend(write_errors(call));
    errors
}

/// A parameter's value as the list that a body would hold.
fn given(query: &Query, name: &str) -> Value {
    match query.get(name) {
        "" => Value::Null,
        value => json!([value]),
    }
}

fn dry_run_error(values: &Value) -> Option<FieldError> {
    let wrong = values.as_array()?.iter().any(|value| value != "All");
    wrong.then(|| FieldError::not_supported("dryRun", values, &["All"]))
}

/// What a deletion asks for: its body or, without one, its query.
///
/// # Errors
/// Invalid: a policy that there is not, or two that contradict each other.
pub(crate) fn deletion(call: &Call, body: Value) -> Result<Value, ApiError> {
    let query = &call.query;
    let options = if body.is_null() {
        json!({
            "dryRun": given(query, "dryRun"), "propagationPolicy": query.get("propagationPolicy"),
            "gracePeriodSeconds": query.get("gracePeriodSeconds").parse::<i64>().ok(),
            "orphanDependents": query.get("orphanDependents").parse::<bool>().ok(),
        })
    } else {
        body
    };
    let mut errors: Vec<FieldError> = dry_run_error(&options["dryRun"]).into_iter().collect();
    let policy = text(&options, &["propagationPolicy"]);
    if !["", "Orphan", "Background", "Foreground"].contains(&policy) {
        let supported = ["Foreground", "Background", "Orphan", "nil"];
        errors.push(FieldError::not_supported("propagationPolicy", &json!(policy), &supported));
    }
    if options["orphanDependents"].is_boolean() && !policy.is_empty() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", &json!(policy), why));
    }
    refuse("DeleteOptions", &errors)?;
    Ok(options)
}

/// The revision that a read names, if it names one.
///
/// # Errors
/// It is no number, or lies in the future.
pub(crate) fn revision(call: &Call, present: u64) -> Result<Option<u64>, ApiError> {
    let text = call.query.get("resourceVersion");
    if text.is_empty() {
        return Ok(None);
    }
    let asked = text.parse::<u64>().map_err(|_| {
        let why = format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        );
        match call.verb {
            Verb::List => ApiError::bad_request(format!("invalid resource version: {why}")),
            _ => ApiError::new(Reason::Other(500), why),
        }
    })?;
    if asked > present && call.verb != Verb::Watch {
        let why = format!("Timeout: Too large resource version: {asked}, current: {present}");
        let mut error = ApiError::new(Reason::Timeout, why);
        let cause =
            json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        error.details = Some(json!({"causes": [cause], "retryAfterSeconds": 1}));
        return Err(error);
    }
    Ok(Some(asked))
}
