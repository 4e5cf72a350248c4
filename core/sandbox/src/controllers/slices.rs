//! # Endpoints and EndpointSlices
//!
//! Job: the Endpoints and EndpointSlices that a Service should have, from its Pods (selector) or from a
//! hand-written Endpoints object (mirroring), and what to write to get there.
//! May touch: values. Must not touch: the API. Callers: the controllers' reconcile step.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{
            EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod,
            Service, ServicePort,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::OwnerReference, util::intstr::IntOrString},
};
use kube::{Resource, ResourceExt, core::ObjectMeta};

use super::{replica_set::ready_since, world::selects};

/// Label that names the Service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const HEADLESS: &str = "service.kubernetes.io/headless";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Endpoints in one slice of a selector Service, as in Kubernetes.
const SLICE_LIMIT: usize = 100;
/// Addresses which are mirrored from one subset, as in Kubernetes.
const MIRROR_LIMIT: usize = 1000;

/// Writes that bring slices to the desired state.
#[derive(Default, Debug)]
pub(crate) struct SlicePlan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) replace: Vec<EndpointSlice>,
    pub(crate) delete: Vec<String>,
}

/// The ready and unready addresses and the ports of one combination of target ports.
type Group<'a> = (Vec<SlicePort>, Vec<&'a Arc<Pod>>);

/// The Pods behind `service`.
pub(crate) fn backends<'a>(
    service: &Service,
    pods: impl Iterator<Item = &'a Arc<Pod>>,
) -> Vec<&'a Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    pods.filter(|pod| selects(selector, pod.metadata.labels.as_ref()))
        .filter(|pod| {
            let status = pod.status.as_ref();
            let over =
                matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
            !over && status.is_some_and(|s| s.pod_ip.as_ref().is_some_and(|ip| !ip.is_empty()))
        })
        .collect()
}

/// The selector of a Service, if it has one.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())
}

/// The Endpoints object of a selector Service.
pub(crate) fn endpoints(service: &Service, pods: &[&Arc<Pod>]) -> Endpoints {
    let tolerant = publishes_unready(service);
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for (ports, members) in groups(service, pods) {
        let mut ready = Vec::new();
        let mut unready = Vec::new();
        for pod in members {
            if pod.metadata.deletion_timestamp.is_some() && !tolerant {
                continue;
            }
            let target =
                if tolerant || ready_since(pod).is_some() { &mut ready } else { &mut unready };
            target.push(address(service, pod));
        }
        if ready.is_empty() && unready.is_empty() {
            continue;
        }
        let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        subsets.push(EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(unready),
            ports: (!ports.is_empty()).then(|| ports.iter().map(port_of_subset).collect()),
        });
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels
        .insert("endpoints.kubernetes.io/managed-by".to_owned(), "endpoint-controller".to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// Whether `have` needs no write to be `want`.
pub(crate) fn same_endpoints(have: &Endpoints, want: &Endpoints) -> bool {
    have.subsets.as_deref().unwrap_or_default() == want.subsets.as_deref().unwrap_or_default()
        && have.metadata.labels.as_ref().filter(|l| !l.is_empty())
            == want.metadata.labels.as_ref().filter(|l| !l.is_empty())
}

/// The slices of a selector Service.
pub(crate) fn service_slices(service: &Service, pods: &[&Arc<Pod>]) -> Vec<EndpointSlice> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let owner = service.controller_owner_ref(&());
    let base = |ports: &[SlicePort], endpoints: Vec<Endpoint>| {
        slice(service.meta(), &labels, SLICE_CONTROLLER, owner.clone(), ports, endpoints)
    };
    let mut slices = Vec::new();
    for (ports, members) in groups(service, pods) {
        let all: Vec<_> = members.iter().map(|pod| endpoint(service, pod)).collect();
        slices.extend(all.chunks(SLICE_LIMIT).map(|chunk| base(&ports, chunk.to_vec())));
    }
    if slices.is_empty() {
        // A Service without Pods has one empty slice.
        slices.push(base(&[], Vec::new()));
    }
    slices
}

/// The slices which mirror a hand-written Endpoints object; none if it is not to be mirrored.
pub(crate) fn mirrored_slices(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    let led = endpoints.annotations().contains_key("control-plane.alpha.kubernetes.io/leader");
    let managed = labels.contains_key("endpoints.kubernetes.io/managed-by");
    if labels.get(SKIP_MIRROR).is_some_and(|v| v == "true") || led || managed {
        return Vec::new();
    }
    labels.remove(SKIP_MIRROR);
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations.remove(TRIGGER_TIME);
    let owner = endpoints.controller_owner_ref(&());
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<_> = subset.ports.iter().flatten().map(port_of_slice).collect();
        let ready = subset.addresses.iter().flatten().map(|a| mirrored(a, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|a| mirrored(a, false));
        let (v6, v4): (Vec<Endpoint>, Vec<Endpoint>) = ready
            .chain(unready)
            .take(MIRROR_LIMIT)
            .partition(|e| e.addresses.iter().any(|a| a.contains(':')));
        for (family, members) in [("IPv4", v4), ("IPv6", v6)] {
            if members.is_empty() {
                continue;
            }
            let mut slice =
                slice(endpoints.meta(), &labels, MIRRORING, owner.clone(), &ports, members);
            slice.address_type = family.to_owned();
            slice.metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
            slices.push(slice);
        }
    }
    slices
}

/// Brings the existing slices of one Service to the desired ones, reusing what is there.
pub(crate) fn slice_plan(have: &[&Arc<EndpointSlice>], want: Vec<EndpointSlice>) -> SlicePlan {
    let mut plan = SlicePlan::default();
    let mut ours: Vec<_> = have
        .iter()
        .filter(|s| {
            let manager = s.labels().get(MANAGED_BY).map(String::as_str);
            matches!(manager, Some(SLICE_CONTROLLER | MIRRORING))
                && s.metadata.deletion_timestamp.is_none()
        })
        .collect();
    let mut left = Vec::new();
    for wanted in want {
        match ours.iter().position(|have| same_slice(have, &wanted)) {
            Some(found) => {
                ours.remove(found);
            }
            None => left.push(wanted),
        }
    }
    for mut wanted in left {
        let found = ours.iter().position(|have| {
            have.address_type == wanted.address_type
                && have.labels().get(MANAGED_BY) == wanted.labels().get(MANAGED_BY)
        });
        match found {
            Some(found) => {
                let have = ours.remove(found);
                wanted.metadata.name = have.metadata.name.clone();
                wanted.metadata.generate_name = have.metadata.generate_name.clone();
                wanted.metadata.resource_version = have.metadata.resource_version.clone();
                wanted.metadata.uid = have.metadata.uid.clone();
                plan.replace.push(wanted);
            }
            None => plan.create.push(wanted),
        }
    }
    plan.delete = ours.iter().map(|s| s.name_any()).collect();
    plan
}

fn same_slice(have: &EndpointSlice, want: &EndpointSlice) -> bool {
    let annotations = |s: &EndpointSlice| s.metadata.annotations.clone().unwrap_or_default();
    have.endpoints == want.endpoints
        && have.ports.as_deref().unwrap_or_default() == want.ports.as_deref().unwrap_or_default()
        && have.address_type == want.address_type
        && have.metadata.labels == want.metadata.labels
        && annotations(have) == annotations(want)
}

fn slice(
    parent: &ObjectMeta,
    labels: &BTreeMap<String, String>,
    manager: &str,
    owner: Option<OwnerReference>,
    ports: &[SlicePort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = parent.name.clone().unwrap_or_default();
    let mut labels = labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: parent.namespace.clone(),
            labels: Some(labels),
            owner_references: owner.map(|o| vec![o]),
            ..Default::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints,
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
    }
}

/// Pods grouped by the numbers that the Service's target ports mean for them.
fn groups<'a>(service: &Service, pods: &[&'a Arc<Pod>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    for pod in pods {
        let resolved: Vec<SlicePort> =
            ports.into_iter().flatten().filter_map(|port| slice_port(port, pod)).collect();
        if resolved.is_empty() && ports.is_some_and(|p| !p.is_empty()) {
            continue;
        }
        match groups.iter_mut().find(|(ports, _)| *ports == resolved) {
            Some((_, members)) => members.push(pod),
            None => groups.push((resolved, vec![pod])),
        }
    }
    groups
}

fn slice_port(port: &ServicePort, pod: &Pod) -> Option<SlicePort> {
    Some(SlicePort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(target_port(port, pod)?),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    })
}

/// The number of a Service port's target in a Pod; none if the Pod has no port of that name.
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| {
            p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|p| p.container_port)
}

fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let ready = ready_since(pod).is_some();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    Endpoint {
        addresses: vec![pod_ip(pod)],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready(service) || (ready && !leaving)),
            serving: Some(ready),
            terminating: Some(leaving),
        }),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(pod_ref(pod)),
        ..Default::default()
    }
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

fn address(service: &Service, pod: &Pod) -> EndpointAddress {
    EndpointAddress {
        ip: pod_ip(pod),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(pod_ref(pod)),
    }
}

fn pod_ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default()
}

fn pod_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// A Pod has a name of its own below the Service whose name is the Pod's subdomain.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_ref()?;
    (Some(subdomain) == service.metadata.name.as_ref())
        .then(|| spec.hostname.clone())
        .flatten()
        .filter(|h| !h.is_empty())
}

fn port_of_subset(port: &SlicePort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|n| !n.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}

fn port_of_slice(port: &EndpointPort) -> SlicePort {
    SlicePort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.publish_not_ready_addresses == Some(true))
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
}

#[cfg(test)]
mod tests;
