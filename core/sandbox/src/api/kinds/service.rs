//! # Services
//!
//! Job: defaults and rules of Services, and the choice of ClusterIPs and node ports.
//! May touch: Services; allocation reads all of them. Must not touch: endpoints, listeners.
//! Callers: `kinds`; `write` while it holds the allocation lock.

use std::{collections::HashSet, net::Ipv4Addr};

use serde_json::{Map, Value, json};

use super::dns_label;
use crate::api::{
    object::{at, list, map_at, map_of, text},
    shared::Shared,
    status::{ApiError, FieldError},
};

/// Where Kubernetes takes node ports from.
const NODE_PORTS: std::ops::Range<u64> = 30000..32768;
const NONE: &str = "None";

fn put(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    crate::api::object::default(map, key, value);
}

pub(super) fn default(object: &mut Map<String, Value>) {
    let spec = map_at(object, "spec");
    put(spec, "sessionAffinity", "None");
    put(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        put(map_at(map_at(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10800);
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        put(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        put(spec, "internalTrafficPolicy", "Cluster");
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let port = map_of(port);
        put(port, "protocol", "TCP");
        if (matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == 0
            || port["targetPort"] == "")
            && let Some(number) = port.get("port").cloned()
        {
            port.insert("targetPort".into(), number);
        }
    }
    put(map_at(object, "status"), "loadBalancer", json!({}));
}

pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    let kind = text(spec, &["type"]);
    let headless = text(spec, &["clusterIP"]) == NONE;
    let ports = list(spec, &["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind == "ExternalName" && text(spec, &["externalName"]).is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            &json!(NONE),
            "may not be set to 'None' for LoadBalancer services",
        ));
    }
    validate_ports(ports, &mut errors);
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported("spec.type", &json!(kind), &kinds));
    }
    if let Some(old) = old {
        validate_addresses(spec, &old["spec"], &mut errors);
    }
    errors
}

pub(super) fn validate_status(new: &Value) -> Vec<FieldError> {
    let field = "status.loadBalancer.ingress";
    let ingress = list(new, &["status", "loadBalancer", "ingress"]);
    if ingress.is_empty() || text(new, &["spec", "type"]) == "LoadBalancer" {
        return Vec::new();
    }
    vec![FieldError::forbidden(field, "may only be used when `spec.type` is 'LoadBalancer'")]
}

fn validate_ports(ports: &[Value], errors: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, &["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            if let Some(why) = dns_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), why));
            } else if !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
            }
        }
        let in_range = |value: &Value| value.as_i64().is_some_and(|n| (1..=65535).contains(&n));
        if !in_range(&port["port"]) {
            let why = "must be between 1 and 65535, inclusive";
            errors.push(FieldError::invalid(format!("{path}.port"), &port["port"], why));
        }
        if port["targetPort"].is_i64() && !in_range(&port["targetPort"]) {
            let why = "must be between 1 and 65535, inclusive";
            errors.push(FieldError::invalid(
                format!("{path}.targetPort"),
                &port["targetPort"],
                why,
            ));
        }
        let protocol = text(port, &["protocol"]);
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            let supported = ["SCTP", "TCP", "UDP"];
            errors.push(FieldError::not_supported(
                format!("{path}.protocol"),
                &json!(protocol),
                &supported,
            ));
        }
        if !numbers.insert((port["port"].as_i64(), protocol)) {
            let value = json!({"port": port["port"], "protocol": protocol});
            errors.push(FieldError::duplicate(path, &value));
        }
    }
}

fn validate_addresses(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new_ip, old_ip) = (text(new, &["clusterIP"]), text(old, &["clusterIP"]));
    let typed = text(new, &["type"]) != "ExternalName" && text(old, &["type"]) != "ExternalName";
    if typed && !old_ip.is_empty() && new_ip != old_ip {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            &json!([new_ip]),
            "may not change once set",
        ));
    }
}

/// An update that leaves out what was allocated keeps it, as the real server does for clients that do
/// not read before they write.
pub(crate) fn keep_allocated(new: &mut Value, old: &Value) {
    let kind = text(new, &["spec", "type"]).to_owned();
    if kind == "ExternalName" || text(old, &["spec", "type"]) == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = at(old, &["spec", field]) {
            put(map_at(map_of(new), "spec"), field, value.clone());
        }
    }
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        return;
    }
    let ports: Vec<Value> = list(old, &["spec", "ports"]).to_vec();
    for port in super::super::object::list_mut(new, &["spec", "ports"]) {
        let same =
            ports.iter().find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
        if let Some(node_port) = same.and_then(|p| p.get("nodePort")) {
            put(map_of(port), "nodePort", node_port.clone());
        }
    }
}

/// Chooses addresses and node ports. The caller holds the allocation lock until the Service is stored.
pub(crate) fn allocate(
    shared: &Shared,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let kind = text(service, &["spec", "type"]).to_owned();
    let name = text(service, &["metadata", "name"]).to_owned();
    let spec = map_at(map_of(service), "spec");
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return Ok(());
    }
    let given = spec.get("clusterIP").or_else(|| spec.get("clusterIPs").and_then(|ips| ips.get(0)));
    let given = given.and_then(Value::as_str).unwrap_or_default().to_owned();
    let before = old.map_or("", |old| text(old, &["spec", "clusterIP"]));
    let ip = if given == NONE || (!given.is_empty() && given == before) {
        given
    } else {
        choose_ip(shared, &given, &name)?.to_string()
    };
    spec.insert("clusterIP".into(), ip.clone().into());
    spec.insert("clusterIPs".into(), json!([ip]));
    put(spec, "ipFamilies", json!(["IPv4"]));
    put(spec, "ipFamilyPolicy", "SingleStack");
    let node_ports = kind == "NodePort"
        || (kind == "LoadBalancer"
            && spec.get("allocateLoadBalancerNodePorts") != Some(&json!(false)));
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    if !node_ports {
        for port in ports {
            if kind == "ClusterIP" {
                map_of(port).remove("nodePort");
            }
        }
        return Ok(());
    }
    let mut taken = taken_node_ports(shared, &name);
    for port in ports {
        let port = map_of(port);
        if port.get("nodePort").and_then(Value::as_u64).is_none_or(|n| n == 0) {
            let free = NODE_PORTS.clone().find(|n| !taken.contains(n)).ok_or_else(|| {
                ApiError::internal("failed to allocate a nodePort: range is full")
            })?;
            port.insert("nodePort".into(), free.into());
        }
        taken.extend(port["nodePort"].as_u64());
    }
    Ok(())
}

fn choose_ip(shared: &Shared, given: &str, name: &str) -> Result<Ipv4Addr, ApiError> {
    let range = shared.config.service_cidr;
    let (_, services) = shared.store.list("/services", None);
    let taken: HashSet<Ipv4Addr> = services
        .iter()
        .filter_map(|s| text(&s.value, &["spec", "clusterIP"]).parse().ok())
        .collect();
    if given.is_empty() {
        return range
            .hosts()
            .find(|ip| !taken.contains(ip))
            .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"));
    }
    let invalid = |why: &str| {
        let error = FieldError::invalid("spec.clusterIPs", &json!([given]), why);
        ApiError::invalid("Service", "", name, &[error])
    };
    let ip: Ipv4Addr = given
        .parse()
        .map_err(|_| invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))?;
    if !range.contains(&ip) {
        return Err(invalid(&format!(
            "failed to allocate IP {ip}: the provided network does not match the current range"
        )));
    }
    if taken.contains(&ip) {
        return Err(invalid(&format!(
            "failed to allocate IP {ip}: provided IP is already allocated"
        )));
    }
    Ok(ip)
}

fn taken_node_ports(shared: &Shared, but: &str) -> HashSet<u64> {
    let (_, services) = shared.store.list("/services", None);
    services
        .iter()
        .filter(|s| super::super::object::meta(&s.value, "name") != but)
        .flat_map(|s| list(&s.value, &["spec", "ports"]))
        .filter_map(|p| p["nodePort"].as_u64())
        .collect()
}
