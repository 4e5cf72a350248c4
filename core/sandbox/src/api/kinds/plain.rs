//! # Small kinds
//!
//! Job: defaults and rules of kinds that need few: namespaces, Secrets, EndpointSlices, roles, webhooks.
//! May touch: one object. Must not touch: the store.
//! Callers: `kinds`.

use serde_json::{Map, Value, json};

use crate::api::{
    object::{at, default, list, map_at, map_of, text},
    pki::base64,
    shared::Shared,
    status::{ApiError, FieldError},
};

pub(super) fn namespace(object: &mut Map<String, Value>) {
    map_at(object, "spec");
    default(map_at(object, "status"), "phase", "Active");
    let metadata = map_at(object, "metadata");
    // Selectors of namespaces by name rely on this label.
    if let Some(name) = metadata.get("name").cloned().filter(|n| n != "") {
        map_at(metadata, "labels").insert("kubernetes.io/metadata.name".into(), name);
    }
}

/// A new namespace is held until it is empty; whoever empties it lets it go.
pub(super) fn hold_namespace(_: &Shared, namespace: &mut Value) -> Result<(), ApiError> {
    map_at(map_of(namespace), "spec").insert("finalizers".into(), json!(["kubernetes"]));
    Ok(())
}

pub(super) fn secret(object: &mut Map<String, Value>) {
    default(object, "type", "Opaque");
    let Some(Value::Object(plain)) = object.remove("stringData") else { return };
    let data = map_at(object, "data");
    for (name, value) in plain {
        let text = value.as_str().unwrap_or_default();
        data.insert(name, base64(text.as_bytes()).into());
    }
}

pub(super) fn validate_secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    use ::base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut errors = Vec::new();
    for (name, value) in new["data"].as_object().into_iter().flatten() {
        if value.as_str().is_none_or(|v| STANDARD.decode(v).is_err()) {
            let field = format!("data[{name}]");
            errors.push(FieldError::invalid(
                field,
                &json!("<secret contents redacted>"),
                "must be base64",
            ));
        }
    }
    let required: &[&str] = match text(new, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    for name in required {
        if at(new, &["data", name]).is_none() {
            errors.push(FieldError::required(format!("data[{name}]"), ""));
        }
    }
    let account = "kubernetes.io/service-account.name";
    if text(new, &["type"]) == super::account::TOKEN_TYPE
        && text(new, &["metadata", "annotations", account]).is_empty()
    {
        errors.push(FieldError::required(format!("metadata.annotations[{account}]"), ""));
    }
    if let Some(old) = old {
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", &new["type"], "field is immutable"));
        }
        if old["immutable"] == json!(true) && new["data"] != old["data"] {
            errors
                .push(FieldError::forbidden("data", "field is immutable when `immutable` is set"));
        }
    }
    errors
}

pub(super) fn endpoint_slice(object: &mut Map<String, Value>) {
    default(object, "endpoints", json!([]));
    default(object, "ports", json!([]));
    for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    }
}

pub(super) fn validate_endpoint_slice(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(new, &["addressType"]);
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
        let supported = ["FQDN", "IPv4", "IPv6"];
        errors.push(FieldError::not_supported("addressType", &new["addressType"], &supported));
    }
    if old.is_some_and(|old| old["addressType"] != new["addressType"]) {
        errors.push(FieldError::invalid("addressType", &new["addressType"], "field is immutable"));
    }
    for (index, endpoint) in list(new, &["endpoints"]).iter().enumerate() {
        let addresses = list(endpoint, &["addresses"]);
        if addresses.is_empty() {
            let field = format!("endpoints[{index}].addresses");
            errors.push(FieldError::required(field, "must contain at least 1 address"));
        }
        for (nth, address) in addresses.iter().enumerate() {
            let ip = address.as_str().unwrap_or_default();
            if kind == "IPv4" && ip.parse::<std::net::Ipv4Addr>().is_err() {
                let field = format!("endpoints[{index}].addresses[{nth}]");
                errors.push(FieldError::invalid(
                    field,
                    address,
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ));
            }
        }
    }
    errors
}

pub(super) fn role(object: &mut Map<String, Value>) {
    if !matches!(object.get("rules"), Some(Value::Array(_))) {
        object.insert("rules".into(), Value::Null);
    }
}

pub(super) fn role_binding(object: &mut Map<String, Value>) {
    let group = "rbac.authorization.k8s.io";
    default(map_at(object, "roleRef"), "apiGroup", group);
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(subject) = subject.as_object_mut()
            && subject.get("kind").is_some_and(|kind| kind != "ServiceAccount")
        {
            default(subject, "apiGroup", group);
        }
    }
}

pub(super) fn validate_role_binding(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(new, &["roleRef", "name"]).is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    let kind = text(new, &["roleRef", "kind"]);
    if !matches!(kind, "Role" | "ClusterRole") {
        let supported = ["Role", "ClusterRole"];
        errors.push(FieldError::not_supported("roleRef.kind", &json!(kind), &supported));
    }
    if old.is_some_and(|old| old["roleRef"] != new["roleRef"]) {
        errors.push(FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
    }
    errors
}

pub(super) fn webhook(object: &mut Map<String, Value>) {
    let mutating = object.get("kind").is_some_and(|kind| kind == "MutatingWebhookConfiguration");
    for hook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(hook) = hook.as_object_mut() else { continue };
        default(hook, "failurePolicy", "Fail");
        default(hook, "matchPolicy", "Equivalent");
        default(hook, "timeoutSeconds", 10);
        default(hook, "namespaceSelector", json!({}));
        default(hook, "objectSelector", json!({}));
        if mutating {
            default(hook, "reinvocationPolicy", "Never");
        }
        if let Some(service) = hook
            .get_mut("clientConfig")
            .and_then(|c| c.get_mut("service"))
            .and_then(Value::as_object_mut)
        {
            default(service, "port", 443);
        }
        for rule in hook.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(rule) = rule.as_object_mut() {
                default(rule, "scope", "*");
            }
        }
    }
}

pub(super) fn validate_webhook(new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, hook) in list(new, &["webhooks"]).iter().enumerate() {
        let path = format!("webhooks[{index}]");
        if text(hook, &["name"]).split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.push(FieldError::invalid(format!("{path}.name"), &hook["name"], why));
        }
        let config = &hook["clientConfig"];
        if config.get("url").is_some() == config.get("service").is_some() {
            let field = format!("{path}.clientConfig");
            errors.push(FieldError::required(field, "exactly one of url or service is required"));
        }
        let (effects, known) = (&hook["sideEffects"], ["None", "NoneOnDryRun"]);
        let field = format!("{path}.sideEffects");
        match effects.as_str() {
            Some(effect) if known.contains(&effect) => {}
            Some(_) => errors.push(FieldError::not_supported(field, effects, &known)),
            None => {
                errors.push(FieldError::required(field, "must specify one of None, NoneOnDryRun"))
            }
        }
        let (field, versions) =
            (format!("{path}.admissionReviewVersions"), list(hook, &["admissionReviewVersions"]));
        if versions.is_empty() {
            errors.push(FieldError::required(field, "must specify one of v1, v1beta1"));
        } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
            let why = "must include at least one of v1, v1beta1";
            errors.push(FieldError::invalid(field, &json!(versions), why));
        }
        for (field, known) in
            [("failurePolicy", &["Fail", "Ignore"]), ("matchPolicy", &["Equivalent", "Exact"])]
        {
            if !known.contains(&text(hook, &[field])) {
                errors.push(FieldError::not_supported(
                    format!("{path}.{field}"),
                    &hook[field],
                    known,
                ));
            }
        }
        let seconds = &hook["timeoutSeconds"];
        if !seconds.as_u64().is_some_and(|seconds| (1..=30).contains(&seconds)) {
            let why = "the timeout value must be between 1 and 30 seconds";
            errors.push(FieldError::invalid(format!("{path}.timeoutSeconds"), seconds, why));
        }
    }
    errors
}
