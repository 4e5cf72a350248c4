//! # What a Pod asks for
//!
//! Job: whether a Pod is redirected, and how, from the objects that the API server has.
//! May touch: values. Must not touch: the API. Callers: `cni`.

use super::config::{ConfigError, Linkerd, id};
use crate::rules::Redirect;
use mesh_model::ports::PortSet;
use serde_json::Value;

/// What becomes of a Pod.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Its connections pass, and why.
    Pass(&'static str),
    /// They are redirected.
    Redirect(Redirect),
}

/// The objects that count.
pub(crate) struct Found<'a> {
    pub(crate) pod: &'a Value,
    pub(crate) namespace: &'a Value,
    /// The Service of the API server, for Pods of the control plane; else null.
    pub(crate) api: &'a Value,
}

/// Why a Pod is left alone, if it is.
pub(crate) fn passes(pod: &Value) -> Option<&'static str> {
    if containers(pod, "initContainers").any(|c| c["name"] == "linkerd-init") {
        return Some("its init container sets the rules");
    }
    let mut all = containers(pod, "initContainers").chain(containers(pod, "containers"));
    let Some(proxy) = all.find(|c| c["name"] == "linkerd-proxy") else {
        return Some("it has no proxy");
    };
    let mut variables = proxy["env"].as_array().into_iter().flatten();
    // A gateway is told that its connections come to it by its own address.
    let local = variables.any(|v| v["name"] == "MESH_ORIGINAL_DST" && v["value"] == "local");
    local.then_some("its proxy takes no redirected connections")
}

/// Whether a Pod is of the control plane, whose way to the API server does not lead through its proxy.
pub(crate) fn is_control_plane(pod: &Value) -> bool {
    !pod["metadata"]["labels"]["linkerd.io/control-plane-component"].is_null()
}

/// The rules for a Pod: the node's, changed by the Pod's annotations, else by its namespace's. An annotation
/// that cannot be read is told and ignored, as the injector does.
pub(crate) fn redirect(node: &Linkerd, found: &Found<'_>) -> Result<Redirect, ConfigError> {
    let mut redirect = node.redirect()?;
    if let Some(ports) = annotation(found, "skip-outbound-ports", |t| t.parse::<PortSet>().ok()) {
        redirect.skip_outbound = ports;
    }
    if let Some(ports) = annotation(found, "skip-inbound-ports", |t| t.parse::<PortSet>().ok()) {
        redirect.skip_inbound = joined(&redirect.skip_inbound, &ports);
    }
    let networks = |text: &str| {
        let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
        items.map(|item| item.parse().ok()).collect::<Option<Vec<_>>>()
    };
    if let Some(subnets) = annotation(found, "skip-subnets", networks) {
        redirect.skip_subnets = subnets;
    }
    let number = |text: &str| text.trim().parse::<i64>().ok();
    if let Some(uid) = annotation(found, "proxy-uid", number) {
        redirect.proxy_uid = id(uid);
    }
    if let Some(gid) = annotation(found, "proxy-gid", number) {
        redirect.proxy_gid = id(gid);
    }
    if is_control_plane(found.pod) {
        redirect.skip_outbound = joined(&redirect.skip_outbound, &api_ports(found.api));
    }
    Ok(redirect)
}

fn annotation<T>(found: &Found<'_>, key: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let key = format!("config.linkerd.io/{key}");
    let text = [found.pod, found.namespace]
        .into_iter()
        .find_map(|object| object["metadata"]["annotations"][&key].as_str())?;
    let parsed = parse(text);
    if parsed.is_none() {
        tracing::warn!(annotation = %key, value = text, "This annotation is not valid and is ignored");
    }
    parsed
}

/// The ports of the API server's Service and those that they lead to.
fn api_ports(service: &Value) -> PortSet {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let numbers = ports.flat_map(|port| [port["port"].as_u64(), port["targetPort"].as_u64()]);
    let found: PortSet = numbers.flatten().filter_map(|n| u16::try_from(n).ok()).collect();
    match found.is_empty() {
        true => USUAL_API_PORTS.into_iter().collect(),
        false => found,
    }
}

fn joined(a: &PortSet, b: &PortSet) -> PortSet {
    let text = format!("{a},{b}");
    // Both are sets as they are written, and so is their list.
    text.parse().unwrap_or_default()
}

fn containers<'a>(pod: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    pod["spec"][kind].as_array().into_iter().flatten()
}

const USUAL_API_PORTS: [u16; 2] = [443, 6443];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Linkerd {
        serde_json::from_value(json!({
            "incoming-proxy-port": 4143, "outgoing-proxy-port": 4140, "proxy-uid": 2102,
            "inbound-ports-to-ignore": ["4190", "4191"], "outbound-ports-to-ignore": ["4567"],
        }))
        .unwrap()
    }

    fn meshed() -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "app"}, {"name": "linkerd-proxy"}]}})
    }

    // proves: INIT-11
    #[test]
    fn only_pods_with_a_proxy_and_without_init_are_redirected() {
        assert_eq!(passes(&meshed()), None);
        let native = json!({"spec": {"initContainers": [{"name": "linkerd-proxy"}]}});
        assert_eq!(passes(&native), None);
        let with_init = json!({"spec": {
            "initContainers": [{"name": "linkerd-init"}], "containers": [{"name": "linkerd-proxy"}]}});
        assert!(passes(&with_init).is_some());
        assert!(passes(&json!({"spec": {"containers": [{"name": "app"}]}})).is_some());
        let gateway = json!({"spec": {"containers": [
            {"name": "linkerd-proxy", "env": [{"name": "MESH_ORIGINAL_DST", "value": "local"}]}]}});
        assert!(passes(&gateway).is_some());
    }

    // proves: INIT-11
    #[test]
    fn annotations_of_the_pod_then_of_the_namespace_change_the_rules() {
        let mut pod = meshed();
        pod["metadata"]["annotations"] = json!({
            "config.linkerd.io/skip-inbound-ports": "80,100-110",
            "config.linkerd.io/skip-subnets": "10.0.0.0/8",
            "config.linkerd.io/proxy-uid": "7",
        });
        let namespace = json!({"metadata": {"annotations": {
            "config.linkerd.io/skip-inbound-ports": "1",
            "config.linkerd.io/skip-outbound-ports": "3306",
            "config.linkerd.io/proxy-gid": "nobody",
        }}});
        let found = Found { pod: &pod, namespace: &namespace, api: &Value::Null };
        let redirect = redirect(&node(), &found).unwrap();
        assert_eq!(redirect.skip_inbound.to_string(), "4190,4191,80,100-110");
        assert_eq!(redirect.skip_outbound.to_string(), "3306");
        assert_eq!(redirect.skip_subnets.len(), 1);
        assert_eq!((redirect.proxy_uid, redirect.proxy_gid), (Some(7), None));
    }

    // proves: INIT-11
    #[test]
    fn the_control_plane_reaches_the_api_server_directly() {
        let mut pod = meshed();
        pod["metadata"]["labels"] = json!({"linkerd.io/control-plane-component": "destination"});
        let ports = |api: &Value| {
            let found = Found { pod: &pod, namespace: &Value::Null, api };
            redirect(&node(), &found).unwrap().skip_outbound.to_string()
        };
        assert_eq!(ports(&Value::Null), "4567,443,6443");
        let api = json!({"spec": {"ports": [{"port": 443, "targetPort": 8443}]}});
        assert_eq!(ports(&api), "4567,443,8443");
    }
}
