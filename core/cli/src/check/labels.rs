//! # Checks of labels and annotations
//!
//! Job: settings that stand where nobody reads them, and ports that only one side takes for opaque.
//! May touch: the cluster, reading. Callers: `dataplane`.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Container, Pod, Service, ServicePort},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::{Api, api::ListParams};

use super::{
    Check, check, dataplane,
    view::{Finding, View, none_or_warn, pod_name},
};

const OPAQUE: &str = "config.linkerd.io/opaque-ports";
const EXPORTED: &str = "mirror.linkerd.io/exported";

/// The checks, in order.
pub(super) fn checks(view: &Arc<View>) -> Vec<Check> {
    vec![
        check!(
            view,
            "data plane pod labels are configured correctly",
            "l5d-data-plane-pod-labels",
            pod_labels
        ),
        check!(
            view,
            "data plane service labels are configured correctly",
            "l5d-data-plane-services-labels",
            service_labels
        ),
        check!(
            view,
            "data plane service annotations are configured correctly",
            "l5d-data-plane-services-annotations",
            service_annotations
        ),
        check!(view, "opaque ports are properly annotated", "l5d-opaque-ports-definition", opaque),
    ]
}

async fn pod_labels(view: &View) -> Result<Finding> {
    let pods = dataplane::pods(view).await?;
    let lines = pods.iter().flat_map(|pod| misplaced_labels(&pod_name(pod), &pod.metadata));
    Ok(none_or_warn("these labels of Pods should be annotations:", lines.collect()))
}

async fn service_labels(view: &View) -> Result<Finding> {
    let services = services(view).await?;
    let lines =
        services.iter().flat_map(|s| misplaced_labels(&full_name(&s.metadata), &s.metadata));
    Ok(none_or_warn("these labels of Services should be annotations:", lines.collect()))
}

async fn service_annotations(view: &View) -> Result<Finding> {
    let services = services(view).await?;
    let wrong = services.iter().filter(|s| annotation(&s.metadata, EXPORTED).is_some());
    let lines = wrong.map(|s| format!("{}: {EXPORTED}", full_name(&s.metadata))).collect();
    Ok(none_or_warn("these annotations of Services should be labels:", lines))
}

async fn opaque(view: &View) -> Result<Finding> {
    let values = view.values().await?;
    let default = values["proxy"]["opaquePorts"].as_str().unwrap_or_default().to_owned();
    let pods = dataplane::pods(view).await?;
    let services = services(view).await?;
    let lines = services.iter().flat_map(|service| {
        let behind = pods.iter().filter(|pod| selects(service, pod));
        behind.flat_map(|pod| disagreements(service, pod, &default)).collect::<Vec<_>>()
    });
    let intro = format!(
        "give Service and Pods the same {OPAQUE}, or the protocol is detected on one side only:"
    );
    Ok(none_or_warn(&intro, lines.collect()))
}

async fn services(view: &View) -> Result<Vec<Service>> {
    let client = view.client().await?;
    let api: Api<Service> = match &view.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    Ok(api.list(&ListParams::default()).await.context("cannot list Services")?.items)
}

fn full_name(meta: &ObjectMeta) -> String {
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Labels whose keys are those of annotations.
fn misplaced_labels(name: &str, meta: &ObjectMeta) -> Vec<String> {
    let settings = |key: &&String| {
        *key == "linkerd.io/inject"
            || ["config.linkerd.io/", "config.alpha.linkerd.io/", "config.beta.linkerd.io/"]
                .iter()
                .any(|prefix| key.starts_with(prefix))
    };
    let labels = meta.labels.iter().flat_map(BTreeMap::keys);
    labels.filter(settings).map(|key| format!("{name}: {key}")).collect()
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let Some(selector) = selector.filter(|s| !s.is_empty()) else { return false };
    let labels = pod.metadata.labels.as_ref();
    service.metadata.namespace == pod.metadata.namespace
        && selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// Ports of the Service that one side takes for opaque and the other does not.
fn disagreements(service: &Service, pod: &Pod, default: &str) -> Vec<String> {
    let of_service = annotation(&service.metadata, OPAQUE).unwrap_or(default);
    let of_pod = annotation(&pod.metadata, OPAQUE).unwrap_or_default();
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let line = |port: &ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        let target = target(port, pod)?;
        let here = contains(of_service, number, port.name.as_deref());
        let there = contains(of_pod, target, container_port(pod, target).as_deref());
        if here == there {
            return None;
        }
        let (service, pod) = (full_name(&service.metadata), pod_name(pod));
        Some(match here {
            true => {
                format!("Service {service} has port {number} opaque, Pod {pod} not its {target}")
            }
            false => {
                format!("Pod {pod} has port {target} opaque, Service {service} not its {number}")
            }
        })
    };
    ports.filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP")).filter_map(line).collect()
}

/// The Pod's port behind a port of a Service.
fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            containers(pod)
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| p.name.as_deref() == Some(name))?
                .container_port
        }
    };
    u16::try_from(number).ok()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

fn container_port(pod: &Pod, number: u16) -> Option<String> {
    let mut ports = containers(pod).flat_map(|c| c.ports.iter().flatten());
    ports.find(|p| p.container_port == i32::from(number))?.name.clone()
}

/// Whether a list of ports, ranges and names has the port.
fn contains(list: &str, port: u16, name: Option<&str>) -> bool {
    list.split(',').map(str::trim).any(|item| match item.split_once('-') {
        Some((from, to)) if from.parse::<u16>().is_ok() => {
            from.parse().is_ok_and(|from: u16| from <= port)
                && to.parse().is_ok_and(|to: u16| port <= to)
        }
        _ => item.parse() == Ok(port) || (!item.is_empty() && Some(item) == name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(annotations: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "db", "namespace": "shop", "annotations": annotations,
                "labels": { "config.linkerd.io/opaque-ports": "80", "app": "db" } },
            "spec": { "selector": { "app": "db" }, "ports": [
                { "name": "sql", "port": 3306, "targetPort": "sql" },
                { "name": "http", "port": 80, "targetPort": 8080 },
            ] },
        }))
        .unwrap()
    }

    fn pod(annotations: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "db-0", "namespace": "shop", "labels": { "app": "db" },
                "annotations": annotations },
            "spec": { "containers": [
                { "name": "db", "ports": [{ "name": "sql", "containerPort": 5000 }] },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn sides_that_disagree_about_a_port_are_told() {
        let ports = |list: &str| json!({ OPAQUE: list });
        let told = |service: &Service, pod: &Pod| disagreements(service, pod, "25,3306");
        // The chart's list holds for a Service without annotation, and for Pods the injector writes it.
        assert!(told(&service(json!({})), &pod(ports("5000"))).is_empty());
        assert!(told(&service(ports("3306")), &pod(ports("4000-6000"))).is_empty());
        assert!(told(&service(ports("sql")), &pod(ports("sql"))).is_empty());
        let lines = told(&service(json!({})), &pod(json!({})));
        assert_eq!(lines, ["Service shop/db has port 3306 opaque, Pod shop/db-0 not its 5000"]);
        let lines = told(&service(ports("")), &pod(ports("8080")));
        assert_eq!(lines, ["Pod shop/db-0 has port 8080 opaque, Service shop/db not its 80"]);
    }

    #[test]
    fn settings_among_the_labels_are_told() {
        let service = service(json!({ EXPORTED: "true" }));
        assert_eq!(
            misplaced_labels("shop/db", &service.metadata),
            ["shop/db: config.linkerd.io/opaque-ports"]
        );
        assert!(annotation(&service.metadata, EXPORTED).is_some());
    }

    #[test]
    fn a_service_without_selector_selects_nothing() {
        let mut service = service(json!({}));
        assert!(selects(&service, &pod(json!({}))));
        service.spec.as_mut().unwrap().selector = Some(BTreeMap::new());
        assert!(!selects(&service, &pod(json!({}))));
    }
}
