//! # Admission webhooks
//!
//! Job: asks the configured webhooks about a write, in order of their names, and takes their patches and refusals.
//! May touch: the store, reading; connections to webhooks. Must not touch: the store, writing.
//! Callers: `write`, `finish`.

mod dial;

use std::sync::Arc;

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    kinds::new_uid,
    object::{list, map_at, map_of, meta, text},
    patch::apply_json,
    read::present,
    registry::Resource,
    request::Call,
    selector::Labels,
    status::{ApiError, Extra, Reason},
};
use crate::{schema, store::Key};

const GROUP: &str = "admissionregistration.k8s.io";
const LONGEST: u64 = 30;

/// Asks mutating webhooks; returns the object with their patches. A webhook that wishes so is asked once more when a
/// later one has changed the object.
pub(crate) async fn mutate(
    call: &Call,
    operation: &'static str,
    mut object: Value,
    old: Option<&Value>,
) -> Result<Value, ApiError> {
    let hooks = hooks(call, "mutatingwebhookconfigurations");
    // What each webhook left behind.
    let mut left: Vec<Option<Value>> = vec![None; hooks.len()];
    for again in [false, true] {
        for (hook, left) in hooks.iter().zip(&mut left) {
            let stale = left.as_ref().is_some_and(|left| *left != object);
            if again && !(stale && text(hook, &["reinvocationPolicy"]) == "IfNeeded") {
                continue;
            }
            let Some(review) = Review::of(call, operation, hook, Some(&object), old) else {
                continue;
            };
            if let Some(Answer { patch: Some(patch) }) = review.ask().await? {
                object = patched(&review.resource, &object, &patch)?;
            }
            *left = Some(object.clone());
        }
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
        if let Some(review) = Review::of(call, operation, &hook, object, old) {
            review.ask().await?;
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

fn patched(
    resource: &Resource,
    object: &Value,
    patch: &json_patch::Patch,
) -> Result<Value, ApiError> {
    let mut shown = present(resource, object);
    apply_json(&mut shown, patch).map_err(ApiError::internal)?;
    let findings = schema::prune(&mut shown, resource.schema.get(), resource.builtin());
    if let Some((path, found, expected)) = findings.mismatch {
        let kind = &resource.kind;
        let why = format!(
            "json: cannot unmarshal {found} into Go struct field {kind}.{path} of type {expected}"
        );
        return Err(ApiError::internal(why));
    }
    let version = object["apiVersion"].clone();
    if resource.group == "events.k8s.io" {
        shown = super::kinds::events::to_core(shown);
    }
    map_of(&mut shown).insert("apiVersion".into(), version);
    Ok(shown)
}

/// One question to one webhook.
struct Review<'a> {
    call: &'a Call,
    operation: &'static str,
    hook: &'a Value,
    /// The version of the resource that the webhook speaks.
    resource: Arc<Resource>,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
}

/// What an allowing webhook adds.
struct Answer {
    patch: Option<json_patch::Patch>,
}

impl<'a> Review<'a> {
    /// The question, if the webhook wants to be asked.
    fn of(
        call: &'a Call,
        operation: &'static str,
        hook: &'a Value,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
    ) -> Option<Self> {
        let resource = matched(call, operation, hook)?;
        let review = Self { call, operation, hook, resource, object, old };
        let selector = Labels::from_object(&hook["objectSelector"]);
        let selected = [object, old].into_iter().flatten().any(|o| selector.matches(o));
        (selected && review.namespace_matches(hook)).then_some(review)
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

    /// The webhook's answer; `None` if it could not be asked and may be ignored.
    async fn ask(&self) -> Result<Option<Answer>, ApiError> {
        let hook = self.hook;
        let name = text(hook, &["name"]);
        if self.call.dry_run && !matches!(text(hook, &["sideEffects"]), "None" | "NoneOnDryRun") {
            return Err(ApiError::bad_request(format!(
                "admission webhook {name:?} does not support dry run"
            )));
        }
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, LONGEST);
        let request = self.request();
        let answer = dial::post(&self.call.shared, &hook["clientConfig"], &request, seconds)
            .await
            .and_then(|review| self.checked(&review, &request));
        match answer {
            Ok((response, patch)) => {
                self.decide(name, &response)?;
                Ok(Some(Answer { patch }))
            }
            Err(why) if text(hook, &["failurePolicy"]) == "Ignore" => {
                tracing::warn!(webhook = name, %why, "a webhook failed and is ignored");
                Ok(None)
            }
            Err(why) => Err(ApiError::internal(format!("failed calling webhook {name:?}: {why}"))),
        }
    }

    /// The response of a review that is one, and its patch.
    fn checked(
        &self,
        review: &Value,
        request: &Value,
    ) -> Result<(Value, Option<json_patch::Patch>), String> {
        let invalid = |why: &str| format!("received invalid webhook response: {why}");
        let response = &review["response"];
        if !response.is_object() {
            return Err(invalid("webhook response was absent"));
        }
        let (asked, told) = (&request["request"]["uid"], text(response, &["uid"]));
        if *asked != told {
            return Err(invalid(&format!("expected response.uid={asked}, got {told:?}")));
        }
        let Some(patch) = response["patch"].as_str() else { return Ok((response.clone(), None)) };
        if self.hook.get("reinvocationPolicy").is_none() {
            return Err(invalid("validating webhook may not return response.patch"));
        }
        if text(response, &["patchType"]).is_empty() {
            return Err(invalid("webhook returned response.patch but not response.patchType"));
        }
        let bytes = STANDARD
            .decode(patch)
            .map_err(|e| format!("failed to call webhook: the patch is no base64: {e}"))?;
        let patch = serde_json::from_slice(&bytes)
            .map_err(|e| format!("received undecodable patch in webhook response: {e}"))?;
        Ok((response.clone(), Some(patch)))
    }

    fn decide(&self, name: &str, response: &Value) -> Result<(), ApiError> {
        for warning in list(response, &["warnings"]).iter().filter_map(Value::as_str) {
            self.call.warn(warning);
        }
        if response["allowed"] == json!(true) {
            return Ok(());
        }
        let status = &response["status"];
        let reason = text(status, &["reason"]);
        let message = match (text(status, &["message"]), reason) {
            ("", "") => {
                format!("admission webhook {name:?} denied the request without explanation")
            }
            ("", why) | (why, _) => format!("admission webhook {name:?} denied the request: {why}"),
        };
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
        let mut error = ApiError::new(Reason::Other(code), message);
        error.extra = (!reason.is_empty()).then(|| Box::new(Extra::Word(reason.to_owned())));
        error.details = status.get("details").cloned();
        Err(error)
    }

    fn request(&self) -> Value {
        let (asked, resource) = (&self.call.resource, &self.resource);
        let shown = |o: Option<&Value>| {
            o.map_or(Value::Null, |o| {
                let mut shown = present(resource, o);
                map_of(&mut shown).insert("apiVersion".into(), resource.api_version().into());
                shown
            })
        };
        let kind = |r: &Resource| json!({"group": r.group, "version": r.version, "kind": r.kind});
        let plural =
            |r: &Resource| json!({"group": r.group, "version": r.version, "resource": r.plural});
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
            "uid": new_uid(), "kind": kind(resource), "resource": plural(resource),
            "requestKind": kind(asked), "requestResource": plural(asked), "name": name, "operation": self.operation,
            "userInfo": self.call.user.object(), "object": shown(self.object),
            "oldObject": shown(self.old), "dryRun": self.call.dry_run,
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

/// The served version of the request's resource that one of a webhook's rules names: its own or, if the webhook takes
/// equivalent ones, another.
fn matched(call: &Call, operation: &str, hook: &Value) -> Option<Arc<Resource>> {
    let own = &call.resource;
    let rules: Vec<&Value> =
        list(hook, &["rules"]).iter().filter(|rule| rule_fits(call, operation, rule)).collect();
    let names = |version: &str| rules.iter().any(|rule| names(rule, "apiVersions", version));
    if names(&own.version) {
        return Some(own.clone());
    }
    if rules.is_empty() || text(hook, &["matchPolicy"]) == "Exact" {
        return None;
    }
    let served = call.shared.registry.served();
    let other = served.all.iter().find(|other| other.table == own.table && names(&other.version));
    other.cloned()
}

/// Whether a rule names the request in everything but its version.
fn rule_fits(call: &Call, operation: &str, rule: &Value) -> bool {
    let resource = &call.resource;
    let sub = call.subresource.map_or("", |s| s.name());
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
        && names(rule, "operations", operation)
        && names(rule, "apiGroups", &resource.group)
}

fn names(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, &[field]).iter().filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
}
