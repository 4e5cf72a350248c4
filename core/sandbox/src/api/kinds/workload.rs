//! # Workloads
//!
//! Job: defaults and rules of Deployments and ReplicaSets, and of Pod templates in others.
//! May touch: one object. Must not touch: the store.
//! Callers: `kinds`.

use serde_json::{Map, Value, json};

use super::pod;
use crate::api::{
    object::{at, default, map_at},
    selector::Labels,
    status::FieldError,
};

pub(super) fn deployment(object: &mut Map<String, Value>) {
    let spec = map_at(object, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    let strategy = map_at(spec, "strategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = map_at(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
    pod_template(spec);
    default(object, "status", json!({}));
}

pub(super) fn replica_set(object: &mut Map<String, Value>) {
    let spec = map_at(object, "spec");
    default(spec, "replicas", 1);
    pod_template(spec);
    default(map_at(object, "status"), "replicas", 0);
}

pub(super) fn template(object: &mut Map<String, Value>) {
    pod_template(map_at(object, "spec"));
    default(object, "status", json!({}));
}

fn pod_template(spec: &mut Map<String, Value>) {
    if let Some(Value::Object(template)) = spec.get_mut("template") {
        pod::default_spec(map_at(template, "spec"));
    }
}

pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let selector = &new["spec"]["selector"];
    let empty = selector.as_object().is_none_or(Map::is_empty);
    if empty {
        errors.push(FieldError::required("spec.selector", ""));
    }
    let labels = json!({"metadata": {
        "labels": at(new, &["spec", "template", "metadata", "labels"])}});
    if !empty && !Labels::from_object(selector).matches(&labels) {
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            at(new, &["spec", "template", "metadata", "labels"]).unwrap_or(&json!({})),
            "`selector` does not match template `labels`",
        ));
    }
    let replicas = &new["spec"]["replicas"];
    if replicas.as_i64().is_some_and(|n| n < 0) {
        errors.push(FieldError::invalid(
            "spec.replicas",
            replicas,
            "must be greater than or equal to 0",
        ));
    }
    if old.is_some_and(|old| old["spec"]["selector"] != *selector) {
        errors.push(FieldError::invalid("spec.selector", selector, "field is immutable"));
    }
    if let Some(template) = at(new, &["spec", "template", "spec"]) {
        pod::validate_spec(template, "spec.template.spec", &mut errors);
    }
    errors
}
