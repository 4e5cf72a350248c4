//! # Pods
//!
//! Job: defaults and rules of Pods, and the admission that gives each its ServiceAccount and token volume.
//! May touch: Pods; admission reads ServiceAccounts. Must not touch: requests.
//! Callers: `kinds`, `workload`.

use serde_json::{Map, Value, json};

use super::{dns_label, generate_name};
use crate::{
    api::{
        object::{at, list, map_at, map_of, meta, text},
        shared::Shared,
        status::{ApiError, FieldError},
    },
    store::Key,
};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) fn default(object: &mut Map<String, Value>) {
    let spec = map_at(object, "spec");
    default_spec(spec);
    put(spec, "enableServiceLinks", true);
    default_requests(spec);
    let qos = quality(spec);
    let status = map_at(object, "status");
    put(status, "phase", "Pending");
    put(status, "qosClass", qos);
}

fn put(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    crate::api::object::default(map, key, value);
}

/// Fills a Pod spec, of a Pod or of a template.
pub(super) fn default_spec(spec: &mut Map<String, Value>) {
    put(spec, "restartPolicy", "Always");
    put(spec, "dnsPolicy", "ClusterFirst");
    put(spec, "schedulerName", "default-scheduler");
    put(spec, "terminationGracePeriodSeconds", 30);
    put(spec, "securityContext", json!({}));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        put(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        put(spec, "serviceAccountName", account);
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            default_container(map_of(container));
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        default_volume(map_of(volume));
    }
}

/// A limit without a request is its own request; in Pods only, not in templates.
fn default_requests(spec: &mut Map<String, Value>) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let resources = map_at(map_of(container), "resources");
            let Some(Value::Object(limits)) = resources.get("limits").cloned() else { continue };
            let requests = map_at(resources, "requests");
            for (name, amount) in limits {
                put(requests, &name, amount);
            }
        }
    }
}

fn default_container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest =
        !name.contains('@') && name.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
    put(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    put(container, "resources", json!({}));
    put(container, "terminationMessagePath", "/dev/termination-log");
    put(container, "terminationMessagePolicy", "File");
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        put(map_of(port), "protocol", "TCP");
    }
    for env in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(field) = env.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")) {
            put(map_of(field), "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            put(probe, "timeoutSeconds", 1);
            put(probe, "periodSeconds", 10);
            put(probe, "successThreshold", 1);
            put(probe, "failureThreshold", 3);
            default_handler(probe);
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(Value::Object(hook)) = lifecycle.get_mut(hook) {
                default_handler(hook);
            }
        }
    }
}

fn default_handler(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = handler.get_mut("httpGet") {
        put(get, "path", "/");
        put(get, "scheme", "HTTP");
    }
    if let Some(Value::Object(grpc)) = handler.get_mut("grpc") {
        put(grpc, "service", "");
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    let sources = ["secret", "configMap", "downwardAPI", "projected"];
    for source in sources {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            put(source, "defaultMode", 0o644);
            for item in source.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten()
            {
                if let Some(field) = item.get_mut("fieldRef") {
                    put(map_of(field), "apiVersion", "v1");
                }
            }
        }
    }
    let projected = volume.get_mut("projected").and_then(|p| p.get_mut("sources"));
    for source in projected.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
            put(token, "expirationSeconds", 3600);
        }
        let items = source.get_mut("downwardAPI").and_then(|d| d.get_mut("items"));
        for item in items.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(field) = item.get_mut("fieldRef") {
                put(map_of(field), "apiVersion", "v1");
            }
        }
    }
    let known = volume.keys().any(|key| key != "name");
    if !known {
        volume.insert("emptyDir".into(), json!({}));
    }
}

fn quality(spec: &Map<String, Value>) -> &'static str {
    let containers = || {
        ["containers", "initContainers"]
            .into_iter()
            .filter_map(|list| spec.get(list).and_then(Value::as_array))
            .flatten()
    };
    let amount = |container: &Value, side: &str, name: &str| {
        at(container, &["resources", side, name]).cloned()
    };
    let any = containers().any(|c| {
        ["limits", "requests"].iter().any(|side| {
            at(c, &["resources", side]).and_then(Value::as_object).is_some_and(|m| !m.is_empty())
        })
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers().all(|c| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(c, "limits", name);
            limit.is_some() && limit == amount(c, "requests", name)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// What every Pod gets on its way in: its account, its token, tolerations, a priority.
pub(super) fn admit(shared: &Shared, pod: &mut Value) -> Result<(), ApiError> {
    let namespace = meta(pod, "namespace").to_owned();
    let pod_name = match meta(pod, "name") {
        "" => meta(pod, "generateName").to_owned(),
        name => name.to_owned(),
    };
    let spec = map_at(map_of(pod), "spec");
    put(spec, "serviceAccountName", "default");
    let account_name = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    spec.insert("serviceAccount".into(), account_name.clone().into());
    let account = shared.store.get("/serviceaccounts", &Key::new(&namespace, &account_name));
    let Some(account) = account else {
        let why = format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found"
        );
        return Err(ApiError::forbidden("pods", "", &pod_name, &why));
    };
    let wanted = spec
        .get("automountServiceAccountToken")
        .or(account.value.get("automountServiceAccountToken"));
    if wanted != Some(&json!(false)) {
        mount_token(spec);
    }
    put(spec, "preemptionPolicy", "PreemptLowerPriority");
    put(spec, "priority", 0);
    tolerate(spec);
    Ok(())
}

/// Nodes that are not ready or not reachable keep a Pod for five minutes.
fn tolerate(spec: &mut Map<String, Value>) {
    put(spec, "tolerations", json!([]));
    let Some(Value::Array(tolerations)) = spec.get_mut("tolerations") else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|t| {
            let own = text(t, &["key"]);
            let effect = text(t, &["effect"]);
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

fn mount_token(spec: &mut Map<String, Value>) {
    let name = generate_name("kube-api-access-");
    let mut mounted = false;
    for list_name in ["initContainers", "containers"] {
        for container in spec.get_mut(list_name).and_then(Value::as_array_mut).into_iter().flatten()
        {
            let there = list(container, &["volumeMounts"])
                .iter()
                .any(|mount| text(mount, &["mountPath"]) == TOKEN_PATH);
            if there {
                continue;
            }
            let mounts = map_of(container).entry("volumeMounts").or_insert_with(|| json!([]));
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(json!({"name": name, "mountPath": TOKEN_PATH, "readOnly": true}));
                mounted = true;
            }
        }
    }
    if !mounted {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_spec(&new["spec"], "spec", &mut errors);
    if let Some(old) = old
        && mutable_parts_removed(new) != mutable_parts_removed(old)
    {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
             previously negative)",
        ));
    }
    errors
}

/// The spec without what may change in a Pod that exists.
fn mutable_parts_removed(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    let map = map_of(&mut spec);
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        map.remove(field);
    }
    for field in ["containers", "initContainers"] {
        for container in map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            map_of(container).remove("image");
        }
    }
    spec
}

/// Rules of a Pod spec, of a Pod or of a template.
pub(super) fn validate_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for field in ["initContainers", "containers"] {
        for (index, container) in list(spec, &[field]).iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            let name = text(container, &["name"]);
            if name.is_empty() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if let Some(why) = dns_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), why));
            } else if seen.contains(&name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
            seen.push(name);
            if text(container, &["image"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.image"), ""));
            }
            validate_mounts(spec, container, &path, errors);
        }
    }
    let policy = text(spec, &["restartPolicy"]);
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        let supported = ["Always", "OnFailure", "Never"];
        errors.push(FieldError::not_supported(
            format!("{path}.restartPolicy"),
            &json!(policy),
            &supported,
        ));
    }
}

fn validate_mounts(spec: &Value, container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let name = text(mount, &["name"]);
        if !list(spec, &["volumes"]).iter().any(|volume| text(volume, &["name"]) == name) {
            let message = format!("Not found: {name:?}");
            errors.push(FieldError {
                field: format!("{path}.volumeMounts[{index}].name"),
                kind: crate::api::status::FieldErrorKind::Invalid,
                message,
            });
        }
    }
}
