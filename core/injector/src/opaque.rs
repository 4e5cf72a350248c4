//! # Opaque ports
//!
//! Job: the opaque-ports annotation for objects that have none.
//! May touch: values. Must not touch: patches. Callers: `patch`.

use mesh_k8s::annotations::OPAQUE_PORTS;
use mesh_model::ports::PortSet;
use serde_json::Value;

use crate::decision::containers;

/// The annotation's value for a Pod: the namespace's, else the default ports that its containers have.
pub(crate) fn for_pod(namespace: &Value, spec: &Value, default: &PortSet) -> Option<String> {
    if let Some(text) = namespace[OPAQUE_PORTS].as_str() {
        return Some(text.to_owned());
    }
    let all = containers(spec, "initContainers").chain(containers(spec, "containers"));
    let ports = all.filter_map(|c| c["ports"].as_array()).flatten();
    list(ports.filter_map(|p| port(&p["containerPort"])).filter(|p| default.contains(*p)))
}

/// The annotation's value for a Service: the namespace's, else its ports whose target (or, without one, whose
/// own number) is among the default ports.
pub(crate) fn for_service(namespace: &Value, spec: &Value, default: &PortSet) -> Option<String> {
    if let Some(text) = namespace[OPAQUE_PORTS].as_str() {
        return Some(text.to_owned());
    }
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let opaque = ports.iter().filter_map(|p| {
        let own = port(&p["port"])?;
        let target = match &p["targetPort"] {
            Value::Null => Some(own),
            // A name is resolved by nobody here: the default list has numbers only.
            target => port(target).or_else(|| target.as_str()?.parse().ok()),
        };
        target.filter(|t| default.contains(*t)).map(|_| own)
    });
    list(opaque)
}

/// Names of container ports in a list are replaced by their numbers; what is no port is left out.
pub(crate) fn resolve(text: &str, spec: &Value) -> (String, Vec<String>) {
    let mut bad = Vec::new();
    let mut ports = Vec::new();
    for item in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        if item.parse::<PortSet>().is_ok() {
            ports.push(item.to_owned());
            continue;
        }
        let all = containers(spec, "initContainers").chain(containers(spec, "containers"));
        let named = all.filter_map(|c| c["ports"].as_array()).flatten().find(|p| p["name"] == item);
        match named.and_then(|p| port(&p["containerPort"])) {
            Some(port) => ports.push(port.to_string()),
            None => bad.push(item.to_owned()),
        }
    }
    (ports.join(","), bad)
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|p| u16::try_from(p).ok())
}

fn list(ports: impl Iterator<Item = u16>) -> Option<String> {
    let ports: Vec<_> = ports.map(|p| p.to_string()).collect();
    (!ports.is_empty()).then(|| ports.join(","))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    // proves: INJ-3
    #[test]
    fn services_list_their_own_port_by_the_target() {
        let default: PortSet = "25,3306,11211".parse().unwrap();
        let spec = json!({"ports": [
            {"port": 80, "targetPort": 3306}, {"port": 25}, {"port": 9, "targetPort": "http"},
            {"port": 3306, "targetPort": 80},
        ]});
        assert_eq!(for_service(&json!({}), &spec, &default).unwrap(), "80,25");
        assert_eq!(for_service(&json!({OPAQUE_PORTS: "1"}), &spec, &default).unwrap(), "1");
        assert_eq!(for_service(&json!({}), &json!({"ports": [{"port": 80}]}), &default), None);
    }

    #[test]
    fn pods_list_the_default_ports_that_they_have() {
        let default: PortSet = "25,3306".parse().unwrap();
        let spec = json!({
            "initContainers": [{"ports": [{"containerPort": 25}]}],
            "containers": [{"ports": [{"containerPort": 3306, "name": "sql"}, {"containerPort": 80}]}],
        });
        assert_eq!(for_pod(&json!({}), &spec, &default).unwrap(), "25,3306");
        assert_eq!(resolve("sql, 7-9,nope", &spec), ("3306,7-9".into(), vec!["nope".into()]));
    }
}
