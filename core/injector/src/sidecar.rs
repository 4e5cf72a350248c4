//! # The sidecar
//!
//! Job: containers and volumes for one Pod, from the parts that the charts use too.
//! May touch: values. Must not touch: the Pod. Callers: `patch`.

use std::collections::BTreeSet;

use mesh_charts::{RenderError, partial};
use serde_json::{Value, json};

use crate::decision::containers;

/// What is added to a Pod.
pub(crate) struct Sidecar {
    pub(crate) proxy: Value,
    /// Sets redirect rules, or proves that the CNI plugin has.
    pub(crate) init: Value,
    pub(crate) volumes: Vec<Value>,
    /// The proxy is an init container that restarts.
    pub(crate) native: bool,
    /// The application waits for the proxy.
    pub(crate) awaited: bool,
}

/// Renders it with the values for this Pod.
pub(crate) fn render(values: &Value, control: &str, spec: &Value) -> Result<Sidecar, RenderError> {
    let native = values["proxy"]["nativeSidecar"] != false;
    let awaited = values["proxy"]["await"] != false;
    let first = containers(spec, "containers").next().unwrap_or(&Value::Null);
    let capabilities = &first["securityContext"]["capabilities"];
    let mut pod = json!({
        "native": native,
        "inboundPorts": inbound_ports(spec),
        "tokenMount": token_mount(first),
    });
    if capabilities.is_object() {
        let dropped: Vec<_> = capabilities["drop"].as_array().cloned().unwrap_or_default();
        // Without these two the redirect rules cannot be set.
        let needed =
            |c: &&Value| !["NET_ADMIN", "NET_RAW", "ALL"].contains(&c.as_str().unwrap_or(""));
        pod["initDrop"] = dropped.iter().filter(needed).cloned().collect();
        pod["capabilities"] = capabilities.clone();
    }
    let context = json!({ "Values": values, "Namespace": control, "Pod": pod });
    let mut volumes = Vec::new();
    let init = match values["cniEnabled"] == true {
        true => partial("partials.network-validator", &context)?,
        false => {
            volumes.push(partial("partials.xtables-volume", &context)?);
            partial("partials.proxy-init", &context)?
        }
    };
    volumes.push(partial("partials.end-entity-volume", &context)?);
    volumes.push(partial("partials.token-volume", &context)?);
    let proxy = partial("partials.proxy", &context)?;
    Ok(Sidecar { proxy, init, volumes, native, awaited })
}

/// TCP ports of the containers and of their HTTP probes, sorted as text (Linkerd's order).
fn inbound_ports(spec: &Value) -> String {
    let mut ports = BTreeSet::new();
    for container in containers(spec, "containers") {
        let declared = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tcp = |p: &&Value| p["protocol"].is_null() || p["protocol"] == "TCP";
        ports.extend(declared.iter().filter(tcp).map(|p| p["containerPort"].to_string()));
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let port = &container[probe]["httpGet"]["port"];
            let named = declared.iter().find(|p| port.is_string() && p["name"] == *port);
            match named {
                Some(declared) => ports.insert(declared["containerPort"].to_string()),
                None if port.is_u64() => ports.insert(port.to_string()),
                None => false,
            };
        }
    }
    ports.into_iter().collect::<Vec<_>>().join(",")
}

/// Where the application has its API token.
fn token_mount(first: &Value) -> Value {
    let mounts = first["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    mounts.iter().find(|m| m["mountPath"] == path).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_sorted_as_text() {
        let spec = json!({"containers": [
            {"ports": [{"containerPort": 9090}, {"containerPort": 80, "name": "http"}, {"containerPort": 53, "protocol": "UDP"}]},
            {"readinessProbe": {"httpGet": {"port": 10000}}, "livenessProbe": {"httpGet": {"port": "none"}}},
        ]});
        assert_eq!(inbound_ports(&spec), "10000,80,9090");
    }
}
