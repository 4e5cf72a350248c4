//! # Cells
//!
//! Job: what kubectl shows of an object in one cell, as the real server computes it.
//! May touch: objects. Must not touch: the store.
//! Callers: `columns`.

use serde_json::{Value, json};

use super::duration::age;
use crate::api::{
    kinds::scale::selector_text,
    object::{at, deleting, list, text},
};

const NONE: &str = "<none>";

pub(super) fn age_of(object: &Value) -> Value {
    age(&object["metadata"]["creationTimestamp"]).into()
}

/// A number of the status, 0 if absent.
pub(super) fn count(object: &Value, field: &str) -> Value {
    at(object, &["status", field]).cloned().unwrap_or(json!(0))
}

fn or_none(text: String) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

// === Pods ===

/// Native sidecars count among the containers.
fn is_sidecar(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == "Always"
}

fn sidecar_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let init = list(pod, &["spec", "initContainers"]);
    list(pod, &["status", "initContainerStatuses"])
        .iter()
        .filter(move |status| init.iter().any(|c| is_sidecar(c) && c["name"] == status["name"]))
}

pub(super) fn pod_ready(pod: &Value) -> Value {
    let total = list(pod, &["spec", "containers"]).len()
        + list(pod, &["spec", "initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    let ready = list(pod, &["status", "containerStatuses"])
        .iter()
        .chain(sidecar_statuses(pod))
        .filter(|status| status["ready"] == json!(true))
        .count();
    format!("{ready}/{total}").into()
}

pub(super) fn pod_status(pod: &Value) -> Value {
    let mut reason = match text(pod, &["status", "reason"]) {
        "" => text(pod, &["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    let init = list(pod, &["spec", "initContainers"]);
    let mut initializing = false;
    for (index, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let sidecar = init.iter().any(|c| is_sidecar(c) && c["name"] == status["name"]);
        let done = status["state"]["terminated"]["exitCode"] == json!(0);
        if done || (sidecar && status["started"] == json!(true)) {
            continue;
        }
        reason =
            match (&status["state"]["terminated"], text(status, &["state", "waiting", "reason"])) {
                (Value::Object(_), _) => match text(status, &["state", "terminated", "reason"]) {
                    "" => format!("Init:ExitCode:{}", status["state"]["terminated"]["exitCode"]),
                    reason => format!("Init:{reason}"),
                },
                (_, waiting) if !waiting.is_empty() && waiting != "PodInitializing" => {
                    format!("Init:{waiting}")
                }
                _ => format!("Init:{index}/{}", init.len()),
            };
        initializing = true;
        break;
    }
    if !initializing {
        reason = main_reason(pod, reason);
    }
    if deleting(pod) {
        reason = "Terminating".into();
    }
    reason.into()
}

fn main_reason(pod: &Value, mut reason: String) -> String {
    let mut running = false;
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        let waiting = text(status, &["state", "waiting", "reason"]);
        let terminated = at(status, &["state", "terminated"]);
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if let Some(terminated) = terminated {
            reason = match text(terminated, &["reason"]) {
                "" => format!("ExitCode:{}", terminated["exitCode"]),
                why => why.to_owned(),
            };
        } else if status["ready"] == json!(true) && at(status, &["state", "running"]).is_some() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = list(pod, &["status", "conditions"])
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        reason = if ready { "Running".into() } else { "NotReady".into() };
    }
    reason
}

pub(super) fn pod_restarts(pod: &Value) -> Value {
    let statuses = list(pod, &["status", "containerStatuses"]);
    let restarts: i64 = statuses
        .iter()
        .chain(sidecar_statuses(pod))
        .filter_map(|status| status["restartCount"].as_i64())
        .sum();
    let last = statuses
        .iter()
        .chain(sidecar_statuses(pod))
        .filter_map(|status| at(status, &["lastState", "terminated", "finishedAt"])?.as_str())
        .max();
    match last {
        Some(last) if restarts > 0 => format!("{restarts} ({} ago)", age(&json!(last))).into(),
        _ => restarts.to_string().into(),
    }
}

pub(super) fn pod_ip(pod: &Value) -> Value {
    or_none(text(pod, &["status", "podIP"]).to_owned())
}

pub(super) fn pod_node(pod: &Value) -> Value {
    or_none(text(pod, &["spec", "nodeName"]).to_owned())
}

// === Services and endpoints ===

pub(super) fn cluster_ip(service: &Value) -> Value {
    or_none(text(service, &["spec", "clusterIP"]).to_owned())
}

pub(super) fn external_ip(service: &Value) -> Value {
    let mut addresses: Vec<&str> = list(service, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| match text(ingress, &["ip"]) {
            "" => text(ingress, &["hostname"]),
            ip => ip,
        })
        .collect();
    addresses.extend(list(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str));
    match text(service, &["spec", "type"]) {
        "LoadBalancer" if addresses.is_empty() => "<pending>".into(),
        "ExternalName" => text(service, &["spec", "externalName"]).into(),
        _ => or_none(addresses.join(",")),
    }
}

pub(super) fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = list(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let node_port = port["nodePort"].as_i64().filter(|&n| n > 0);
            let node_port = node_port.map_or_else(String::new, |n| format!(":{n}"));
            format!("{}{node_port}/{}", port["port"], text(port, &["protocol"]))
        })
        .collect();
    or_none(ports.join(","))
}

pub(super) fn service_selector(service: &Value) -> Value {
    or_none(at(service, &["spec", "selector"]).map(selector_text).unwrap_or_default())
}

/// At most three, then how many more.
fn first_three(all: &[String]) -> Value {
    if all.is_empty() {
        return NONE.into();
    }
    let shown = all[..all.len().min(3)].join(",");
    match all.len() {
        0..=3 => shown.into(),
        n => format!("{shown} + {} more...", n - 3).into(),
    }
}

pub(super) fn endpoints(endpoints: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(endpoints, &["subsets"]) {
        for port in list(subset, &["ports"]) {
            for address in list(subset, &["addresses"]) {
                all.push(format!("{}:{}", text(address, &["ip"]), port["port"]));
            }
        }
    }
    first_three(&all)
}

pub(super) fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> = list(slice, &["ports"])
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".into(), |n| n.to_string()))
        .collect();
    if ports.is_empty() { "<unset>".into() } else { first_three(&ports) }
}

pub(super) fn slice_endpoints(slice: &Value) -> Value {
    let all: Vec<String> = list(slice, &["endpoints"])
        .iter()
        .flat_map(|endpoint| list(endpoint, &["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    if all.is_empty() { "<unset>".into() } else { first_three(&all) }
}

// === Workloads and nodes ===

pub(super) fn deployment_ready(deployment: &Value) -> Value {
    let wanted = at(deployment, &["spec", "replicas"]).cloned().unwrap_or(json!(0));
    format!("{}/{wanted}", count(deployment, "readyReplicas")).into()
}

fn containers_of(workload: &Value) -> &[Value] {
    list(workload, &["spec", "template", "spec", "containers"])
}

pub(super) fn container_names(workload: &Value) -> Value {
    let names: Vec<_> = containers_of(workload).iter().map(|c| text(c, &["name"])).collect();
    names.join(",").into()
}

pub(super) fn images(workload: &Value) -> Value {
    let images: Vec<_> = containers_of(workload).iter().map(|c| text(c, &["image"])).collect();
    images.join(",").into()
}

pub(super) fn workload_selector(workload: &Value) -> Value {
    or_none(at(workload, &["spec", "selector"]).map(selector_text).unwrap_or_default())
}

pub(super) fn node_status(node: &Value) -> Value {
    let ready = list(node, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| text(c, &["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".into(),
        None => "Unknown".into(),
    };
    if node["spec"]["unschedulable"] == json!(true) {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

pub(super) fn node_roles(node: &Value) -> Value {
    let labels = at(node, &["metadata", "labels"]).and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    roles.sort_unstable();
    or_none(roles.join(","))
}

pub(super) fn node_info(node: &Value, field: &str) -> Value {
    match text(node, &["status", "nodeInfo", field]) {
        "" => "<unknown>".into(),
        info => info.into(),
    }
}

pub(super) fn node_address(node: &Value, kind: &str) -> Value {
    let found = list(node, &["status", "addresses"]).iter().find(|a| a["type"] == kind);
    or_none(found.map(|a| text(a, &["address"]).to_owned()).unwrap_or_default())
}

// === The rest ===

pub(super) fn data_count(object: &Value) -> Value {
    let size = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
    (size("data") + size("binaryData")).into()
}

pub(super) fn secret_count(account: &Value) -> Value {
    list(account, &["secrets"]).len().into()
}

pub(super) fn bound_role(binding: &Value) -> Value {
    format!("{}/{}", text(binding, &["roleRef", "kind"]), text(binding, &["roleRef", "name"]))
        .into()
}

pub(super) fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(binding, &["subjects"])
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(|subject| match (kind, text(subject, &["namespace"])) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", text(subject, &["name"])),
            _ => text(subject, &["name"]).to_owned(),
        })
        .collect();
    names.join(", ").into()
}

/// A field by its name in the core group or in events.k8s.io.
pub(super) fn either<'v>(event: &'v Value, core: &str, new: &str) -> &'v Value {
    event.get(core).unwrap_or_else(|| &event[new])
}

pub(super) fn involved(event: &Value) -> &Value {
    either(event, "involvedObject", "regarding")
}

pub(super) fn event_object(event: &Value) -> Value {
    let object = involved(event);
    format!("{}/{}", text(object, &["kind"]).to_lowercase(), text(object, &["name"])).into()
}

pub(super) fn event_source(event: &Value) -> Value {
    let source = either(event, "source", "deprecatedSource");
    let component = match text(source, &["component"]) {
        "" => {
            either(event, "reportingComponent", "reportingController").as_str().unwrap_or_default()
        }
        component => component,
    };
    match text(source, &["host"]) {
        "" => component.into(),
        host => format!("{component}, {host}").into(),
    }
}

pub(super) fn event_first_seen(event: &Value) -> Value {
    let first = either(event, "firstTimestamp", "deprecatedFirstTimestamp");
    let time = if first.is_null() { &event["eventTime"] } else { first };
    age(time).into()
}

pub(super) fn event_last_seen(event: &Value) -> Value {
    let last = either(event, "lastTimestamp", "deprecatedLastTimestamp");
    let series = &event["series"]["lastObservedTime"];
    match (series.is_null(), last.is_null()) {
        (false, _) => age(series).into(),
        (true, false) => age(last).into(),
        (true, true) => event_first_seen(event),
    }
}

pub(super) fn event_count(event: &Value) -> Value {
    let count = either(event, "count", "deprecatedCount").as_i64();
    let series = event["series"]["count"].as_i64();
    series.or(count).unwrap_or(1).max(1).into()
}
