//! # Admission webhooks
//!
//! Job: asks the configured webhooks about a write, in order of their names, and takes their patches and refusals.
//! May touch: the store, reading; connections to webhooks. Must not touch: the store, writing.
//! Callers: `write`, `finish`.

mod dial;

use std::time::Duration;

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    kinds::new_uid,
    object::{list, map_at, map_of, meta, text},
    read::present,
    request::Call,
    selector::Labels,
    status::{ApiError, Reason},
};
use crate::store::Key;

const GROUP: &str = "admissionregistration.k8s.io";
const LONGEST: u64 = 30;

/// Asks mutating webhooks; returns the object with their patches.
pub(crate) async fn mutate(
    call: &Call,
    operation: &'static str,
    mut object: Value,
    old: Option<&Value>,
) -> Result<Value, ApiError> {
    for hook in hooks(call, "mutatingwebhookconfigurations") {
        let review = Review { call, operation, object: Some(&object), old };
        if !review.matches(&hook) {
            continue;
        }
        let Some(response) = review.ask(&hook).await? else { continue };
        let Some(patch) = response["patch"].as_str() else { continue };
        object = patched(call, &object, patch).map_err(|why| {
            ApiError::internal(format!("admission webhook {:?}: {why}", text(&hook, &["name"])))
        })?;
    }
    Ok(object)
}

/// Asks validating webhooks.
pub(crate) async fn validate(
    call: &Call,
    operation: &'static str,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    for hook in hooks(call, "validatingwebhookconfigurations") {
        let review = Review { call, operation, object, old };
        if review.matches(&hook) {
            review.ask(&hook).await?;
        }
    }
    Ok(())
}

/// The webhooks of a kind of configuration, in order.
fn hooks(call: &Call, plural: &str) -> Vec<Value> {
    // Configurations are never put before webhooks: a bad one could not be mended.
    if call.resource.group == GROUP {
        return Vec::new();
    }
    let (_, configurations) = call.shared.store.list(&format!("{GROUP}/{plural}"), None);
    configurations.iter().flat_map(|c| list(&c.value, &["webhooks"]).to_vec()).collect()
}

fn patched(call: &Call, object: &Value, patch: &str) -> Result<Value, String> {
    let bytes = STANDARD.decode(patch).map_err(|e| format!("its patch is not base64: {e}"))?;
    let patch: json_patch::Patch =
        serde_json::from_slice(&bytes).map_err(|e| format!("its patch does not parse: {e}"))?;
    let mut shown = present(&call.resource, object);
    json_patch::patch(&mut shown, &patch).map_err(|e| format!("its patch does not fit: {e}"))?;
    let version = object["apiVersion"].clone();
    if call.resource.group == "events.k8s.io" {
        shown = super::kinds::events::to_core(shown);
    }
    map_of(&mut shown).insert("apiVersion".into(), version);
    Ok(shown)
}

struct Review<'a> {
    call: &'a Call,
    operation: &'static str,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
}

impl Review<'_> {
    fn matches(&self, hook: &Value) -> bool {
        list(hook, &["rules"]).iter().any(|rule| self.rule_matches(rule))
            && self.namespace_matches(hook)
            && {
                let selector = Labels::from_object(&hook["objectSelector"]);
                [self.object, self.old].into_iter().flatten().any(|o| selector.matches(o))
            }
    }

    fn rule_matches(&self, rule: &Value) -> bool {
        let resource = &self.call.resource;
        let has = |field: &str, wanted: &str| {
            list(rule, &[field]).iter().filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
        };
        let sub = self.call.subresource.map_or("", |s| s.name());
        let named = list(rule, &["resources"]).iter().filter_map(Value::as_str).any(|pattern| {
            let (plural, own_sub) = pattern.split_once('/').unwrap_or((pattern, ""));
            (plural == "*" || plural == resource.plural) && (own_sub == sub || own_sub == "*")
        });
        let scope = match text(rule, &["scope"]) {
            "Cluster" => !resource.namespaced,
            "Namespaced" => resource.namespaced,
            _ => true,
        };
        named
            && scope
            && has("operations", self.operation)
            && has("apiGroups", &resource.group)
            // Another served version of the same resource counts as equivalent.
            && (has("apiVersions", &resource.version) || text(rule, &["matchPolicy"]) != "Exact")
    }

    fn namespace_matches(&self, hook: &Value) -> bool {
        let selector = Labels::from_object(&hook["namespaceSelector"]);
        if self.call.resource.table == "/namespaces" {
            return self.object.or(self.old).is_some_and(|o| selector.matches(o));
        }
        if !self.call.resource.namespaced {
            return true;
        }
        let namespace =
            self.call.shared.store.get("/namespaces", &Key::new("", &self.call.namespace));
        namespace.is_none_or(|namespace| selector.matches(&namespace.value))
    }

    /// The webhook's response; `None` if it could not be asked and may be ignored.
    async fn ask(&self, hook: &Value) -> Result<Option<Value>, ApiError> {
        let name = text(hook, &["name"]);
        if self.call.dry_run() && !matches!(text(hook, &["sideEffects"]), "None" | "NoneOnDryRun") {
            return Err(ApiError::bad_request(format!(
                "admission webhook {name:?} does not support dry run"
            )));
        }
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, LONGEST);
        let request = self.request();
        let answer = timeout(
            Duration::from_secs(seconds),
            dial::post(&self.call.shared, &hook["clientConfig"], &request),
        )
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".into()))
        .and_then(|review| checked(review, &request));
        match answer {
            Ok(response) => self.decide(name, response).map(Some),
            Err(why) if text(hook, &["failurePolicy"]) == "Ignore" => {
                tracing::warn!(webhook = name, %why, "a webhook failed and is ignored");
                Ok(None)
            }
            Err(why) => Err(ApiError::internal(format!(
                "failed calling webhook {name:?}: failed to call webhook: {why}"
            ))),
        }
    }

    fn decide(&self, name: &str, response: Value) -> Result<Value, ApiError> {
        for warning in list(&response, &["warnings"]).iter().filter_map(Value::as_str) {
            self.call.warn(warning);
        }
        if response["allowed"] == json!(true) {
            return Ok(response);
        }
        let code = response["status"]["code"].as_u64().filter(|code| (400..600).contains(code));
        let message = match text(&response, &["status", "message"]) {
            "" => format!("admission webhook {name:?} denied the request without explanation"),
            why => format!("admission webhook {name:?} denied the request: {why}"),
        };
        let code = code.and_then(|code| u16::try_from(code).ok()).unwrap_or(400);
        Err(ApiError::new(Reason::Other(code), message))
    }

    fn request(&self) -> Value {
        let resource = &self.call.resource;
        let shown = |o: Option<&Value>| o.map_or(Value::Null, |o| present(resource, o));
        let kind = json!({
            "group": resource.group, "version": resource.version, "kind": resource.kind});
        let plural = json!({
            "group": resource.group, "version": resource.version, "resource": resource.plural});
        let name = match self.call.name.as_str() {
            "" => self.object.map_or("", |o| meta(o, "name")),
            name => name,
        };
        let options = match self.operation {
            "CREATE" => "CreateOptions",
            "UPDATE" => "UpdateOptions",
            _ => "DeleteOptions",
        };
        let mut request = json!({
            "uid": new_uid(), "kind": kind, "resource": plural, "requestKind": kind,
            "requestResource": plural, "name": name, "operation": self.operation,
            "userInfo": self.call.user.object(), "object": shown(self.object),
            "oldObject": shown(self.old), "dryRun": self.call.dry_run(),
            "options": {"kind": options, "apiVersion": "meta.k8s.io/v1"},
        });
        let map = map_of(&mut request);
        if resource.namespaced {
            map.insert("namespace".into(), self.call.namespace.clone().into());
        } else if resource.table == "/namespaces" {
            map.insert("namespace".into(), name.into());
        }
        if let Some(sub) = self.call.subresource {
            map.insert("subResource".into(), sub.name().into());
            map.insert("requestSubResource".into(), sub.name().into());
        }
        let mut review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"});
        *map_at(map_of(&mut review), "request") = request.as_object().cloned().unwrap_or_default();
        review
    }
}

fn checked(review: Value, request: &Value) -> Result<Value, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    if response["uid"] != request["request"]["uid"] {
        return Err(format!(
            "expected response.uid={}, got {}",
            request["request"]["uid"], response["uid"]
        ));
    }
    Ok(response.clone())
}
