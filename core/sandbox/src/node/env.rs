//! # Environment
//!
//! Job: the environment, command and arguments of a container, from its spec, its Pod, ConfigMaps and Secrets.
//! May touch: values. Must not touch: the API, files. Callers: a container's start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use kube::ResourceExt;

/// Where ConfigMaps and Secrets of the Pod's namespace are found.
pub(crate) trait Sources {
    /// A ConfigMap of the Pod's namespace.
    fn config_map(&self, name: &str) -> Option<std::sync::Arc<ConfigMap>>;
    /// A Secret of the Pod's namespace.
    fn secret(&self, name: &str) -> Option<std::sync::Arc<Secret>>;
}

/// What the Pod knows of where it runs, beyond its spec.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) pod_ip: String,
    pub(crate) host_ip: String,
}

/// A reference that leads nowhere (yet); the text is shown in the container's status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Missing(pub(crate) String);

/// The environment that the spec asks for, in order; later entries see earlier ones as `$(NAME)`.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    place: &Place,
    sources: &impl Sources,
) -> Result<BTreeMap<String, String>, Missing> {
    let mut env = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            match sources.config_map(&source.name) {
                Some(map) => env.extend(
                    map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                ),
                None if source.optional == Some(true) => {}
                None => return Err(Missing(format!("configmap {:?} not found", source.name))),
            }
        }
        if let Some(source) = &from.secret_ref {
            match sources.secret(&source.name) {
                Some(secret) => {
                    let text =
                        |b: &k8s_openapi::ByteString| String::from_utf8_lossy(&b.0).into_owned();
                    env.extend(
                        secret
                            .data
                            .iter()
                            .flatten()
                            .map(|(k, v)| (format!("{prefix}{k}"), text(v))),
                    );
                }
                None if source.optional == Some(true) => {}
                None => return Err(Missing(format!("secret {:?} not found", source.name))),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) => Some(expand(value, &env)),
            (None, Some(source)) => referenced(pod, container, place, sources, source)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

fn referenced(
    pod: &Pod,
    container: &Container,
    place: &Place,
    sources: &impl Sources,
    source: &EnvVarSource,
) -> Result<Option<String>, Missing> {
    if let Some(field) = &source.field_ref {
        return pod_field(pod, place, &field.field_path)
            .map(Some)
            .ok_or_else(|| Missing(format!("unsupported fieldPath {:?}", field.field_path)));
    }
    if let Some(resource) = &source.resource_field_ref {
        let divisor = resource.divisor.as_ref().map(|d| d.0.as_str());
        return Ok(Some(resource_field(
            pod,
            container,
            resource.container_name.as_deref(),
            &resource.resource,
            divisor,
        )));
    }
    if let Some(key) = &source.config_map_key_ref {
        let found = sources
            .config_map(&key.name)
            .and_then(|map| map.data.as_ref().and_then(|d| d.get(&key.key)).cloned());
        return match found {
            None if key.optional != Some(true) => {
                Err(Missing(format!("couldn't find key {} in ConfigMap {}", key.key, key.name)))
            }
            found => Ok(found),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let found = sources.secret(&key.name).and_then(|secret| {
            let value = secret.data.as_ref()?.get(&key.key)?;
            Some(String::from_utf8_lossy(&value.0).into_owned())
        });
        return match found {
            None if key.optional != Some(true) => {
                Err(Missing(format!("couldn't find key {} in Secret {}", key.key, key.name)))
            }
            found => Ok(found),
        };
    }
    Ok(None)
}

/// The value of a downward API field.
pub(crate) fn pod_field(pod: &Pod, place: &Place, path: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => listed(pod.labels()),
        "metadata.annotations" => listed(pod.annotations()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => account(pod),
        "status.podIP" | "status.podIPs" => place.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => place.host_ip.clone(),
        _ => {
            let (field, rest) = path.split_once("['")?;
            let key = rest.strip_suffix("']")?;
            let map = match field {
                "metadata.labels" => pod.labels(),
                "metadata.annotations" => pod.annotations(),
                _ => return None,
            };
            map.get(key).cloned().unwrap_or_default()
        }
    })
}

/// The Pod's ServiceAccount.
pub(crate) fn account(pod: &Pod) -> String {
    let name = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
    name.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// Labels and annotations as a downward API file lists them.
fn listed(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
}

/// A container's request or limit in units of `divisor`; without one, what the machine has.
pub(crate) fn resource_field(
    pod: &Pod,
    container: &Container,
    other: Option<&str>,
    resource: &str,
    divisor: Option<&str>,
) -> String {
    let spec = pod.spec.as_ref();
    let named = other.and_then(|name| {
        spec.into_iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|c| c.name == name)
    });
    let resources = named.unwrap_or(container).resources.as_ref();
    let (kind, name) = resource.split_once('.').unwrap_or(("limits", resource));
    let limits = resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name));
    let requests = resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(name));
    let set = if kind == "requests" { requests } else { limits };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let value = set.and_then(|q| quantity(&q.0)).unwrap_or(match (kind, name) {
        ("requests", _) => 0.0,
        (_, "cpu") => cores as f64,
        _ => 0.0,
    });
    let divisor = divisor.and_then(quantity).filter(|d| *d > 0.0).unwrap_or(1.0);
    format!("{}", (value / divisor).ceil())
}

/// A Kubernetes quantity as a number.
fn quantity(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1048576.0,
        "Gi" => 1073741824.0,
        "Ti" => 1099511627776.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// Replaces `$(NAME)` by the variable's value; unknown names stay, `$$(NAME)` is `$(NAME)` literally.
pub(crate) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(literal) = rest.strip_prefix("$$") {
            out.push('$');
            rest = literal;
            continue;
        }
        let reference = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match reference.and_then(|(name, after)| Some((env.get(name)?, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    struct Fixture;

    impl Sources for Fixture {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            let data = BTreeMap::from([("k".to_owned(), "from-map".to_owned())]);
            (name == "map").then(|| Arc::new(ConfigMap { data: Some(data), ..Default::default() }))
        }
        fn secret(&self, _: &str) -> Option<Arc<Secret>> {
            None
        }
    }

    fn pod(env: serde_json::Value, env_from: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app.kubernetes.io/x": "y"}},
            "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [{"name": "c",
                "env": env, "envFrom": env_from,
                "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]},
        }))
        .unwrap()
    }

    fn env_of(
        env: serde_json::Value,
        from: serde_json::Value,
    ) -> Result<BTreeMap<String, String>, Missing> {
        let pod = pod(env, from);
        let place = Place { pod_ip: "127.9.1.1".into(), host_ip: "127.9.0.2".into() };
        environment(&pod, &pod.spec.as_ref().unwrap().containers[0], &place, &Fixture)
    }

    #[test]
    fn fields_of_the_pod() {
        for (path, value) in [
            ("metadata.name", "p"),
            ("metadata.uid", "u"),
            ("metadata.labels['app.kubernetes.io/x']", "y"),
            ("metadata.annotations['none']", ""),
            ("status.podIPs", "127.9.1.1"),
            ("spec.serviceAccountName", "sa"),
        ] {
            let env = env_of(
                json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}]),
                json!([]),
            );
            assert_eq!(env.unwrap()["A"], value, "{path}");
        }
        let bad = env_of(
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]),
            json!([]),
        );
        assert!(bad.unwrap_err().to_string().contains("spec.nope"));
    }

    #[test]
    fn references_expand_in_order() {
        let env = env_of(
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)-$$(A)-$(P_k)$"}, {"name": "C", "value": "3"}]),
            json!([{"prefix": "P_", "configMapRef": {"name": "map"}}]),
        );
        assert_eq!(env.unwrap()["B"], "1-$(C)-$(A)-from-map$");
    }

    #[test]
    fn missing_sources_are_named_unless_optional() {
        let key = |optional| json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": optional}}}]);
        assert!(env_of(key(false), json!([])).unwrap_err().to_string().contains("Secret s"));
        assert!(!env_of(key(true), json!([])).unwrap().contains_key("A"));
    }

    #[test]
    fn resources_in_units() {
        let of = |resource: &str, divisor: &str| json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}]);
        assert_eq!(env_of(of("limits.cpu", "1"), json!([])).unwrap()["A"], "2");
        assert_eq!(env_of(of("limits.memory", "1Mi"), json!([])).unwrap()["A"], "64");
        assert_eq!(env_of(of("requests.cpu", "1m"), json!([])).unwrap()["A"], "0");
    }
}
