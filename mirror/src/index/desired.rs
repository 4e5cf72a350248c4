//! # Desired objects
//!
//! Job: from an exported Service to the mirror that should stand for it. Pure.
//! May touch: objects. Must not touch: what is there now (`plan.rs`). Callers: `index.rs`.

use super::GatewayView;
use k8s_openapi::{
    api::core::v1::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServicePort, ServiceSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use mesh_k8s::{annotations, labels, names};
use mesh_link::{Gateway, Link, Mode, probe::Health};
use std::collections::BTreeMap;

type Pairs = BTreeMap<String, String>;

/// Kubernetes' limit of a Service's name (a DNS label).
const LONGEST_NAME: usize = 63;

/// What there should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Desired {
    /// No mirror, no status.
    Absent,
    /// A mirror. Flat ones have no Endpoints.
    Mirror {
        service: Box<Service>,
        endpoints: Option<Box<Endpoints>>,
        /// Nothing is known of the gateway's health: what is written about it stays.
        keep_readiness: bool,
    },
    /// No mirror, and the reason why.
    Refused(Refusal),
    /// What is there stays until the trouble is over; the reason why.
    Blocked(Refusal),
}

/// Why an exported Service has no (current) mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Text of the Event on the exported Service, if it gets one.
    pub(crate) event: Option<&'static str>,
}

impl Refusal {
    fn error(message: String) -> Self {
        Self { reason: "Error", message, event: None }
    }
}

/// Decides. `served`: the Service has a ready address. `namespace`: ours has its namespace.
pub(crate) fn desired(
    link: &Link,
    remote: &Service,
    served: bool,
    namespace: bool,
    gateway: &GatewayView,
) -> Desired {
    let Some(mode) = link.selectors.mode(remote.labels()) else { return Desired::Absent };
    if let Some(refusal) = refusal(link, remote, namespace) {
        return Desired::Refused(refusal);
    }
    let service = Box::new(service(link, remote, mode));
    match (mode, &link.gateway) {
        (Mode::Flat, _) => Desired::Mirror { service, endpoints: None, keep_readiness: false },
        (Mode::Gateway, None) => Desired::Refused(Refusal::error(
            "Failed to get gateway address: the Link has no gatewayAddress".into(),
        )),
        (Mode::Gateway, Some(_)) if gateway.ips.is_empty() => {
            let why = gateway.error.as_deref().unwrap_or("it resolves to no address");
            Desired::Blocked(Refusal::error(format!("Failed to get gateway address: {why}")))
        }
        (Mode::Gateway, Some(known)) => Desired::Mirror {
            service,
            endpoints: Some(Box::new(endpoints(link, remote, served, known, gateway))),
            keep_readiness: gateway.health == Health::Unknown,
        },
    }
}

/// True if the object was made by a mirror of this cluster.
pub(crate) fn is_ours<K: kube::Resource>(object: &K, cluster: &str) -> bool {
    let Some(all) = &object.meta().labels else { return false };
    all.get(labels::MIRRORED_SERVICE).is_some_and(|v| v == "true")
        && all.get(labels::MIRROR_CLUSTER_NAME).is_some_and(|v| v == cluster)
}

fn refusal(link: &Link, remote: &Service, namespace: bool) -> Option<Refusal> {
    let invalid =
        |message: String, event| Some(Refusal { reason: "InvalidService", message, event });
    if !namespace {
        return Some(Refusal {
            reason: "MissingNamespace",
            message: "Namespace does not exist".into(),
            event: Some("Skipped mirroring service: namespace does not exist"),
        });
    }
    let spec = remote.spec.as_ref();
    if spec.is_none_or(|s| s.ports.iter().flatten().next().is_none()) {
        let message = "Service has no ports".to_owned();
        return invalid(
            message,
            Some("Skipped mirroring service: object spec has no exposed ports"),
        );
    }
    if spec.is_some_and(|s| s.type_.as_deref() == Some("ExternalName")) {
        return invalid("ExternalName services cannot be mirrored".into(), None);
    }
    let name = names::mirror(&remote.name_any(), &link.cluster);
    if name.len() > LONGEST_NAME {
        let message =
            format!("the mirror's name {name} would be longer than {LONGEST_NAME} characters");
        return invalid(message, None);
    }
    None
}

fn service(link: &Link, remote: &Service, mode: Mode) -> Service {
    let mut all = copied_labels(link, remote);
    if mode == Mode::Flat {
        all.insert(labels::REMOTE_DISCOVERY.into(), link.cluster.clone());
        all.insert(labels::REMOTE_SERVICE.into(), remote.name_any());
    }
    let mut notes = copied_annotations(link, remote);
    notes.insert(annotations::REMOTE_FQ_NAME.into(), fq_name(link, remote));
    notes.insert(
        annotations::REMOTE_RESOURCE_VERSION.into(),
        remote.resource_version().unwrap_or_default(),
    );
    Service {
        metadata: meta(link, remote, all, notes),
        spec: Some(ServiceSpec {
            ports: Some(ports(remote).map(mirror_port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn endpoints(
    link: &Link,
    remote: &Service,
    served: bool,
    gateway: &Gateway,
    view: &GatewayView,
) -> Endpoints {
    let notes = [
        (annotations::REMOTE_FQ_NAME.to_owned(), fq_name(link, remote)),
        (annotations::REMOTE_GATEWAY_IDENTITY.to_owned(), gateway.identity.to_string()),
    ];
    let addresses: Vec<_> = view
        .ips
        .iter()
        .map(|ip| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() })
        .collect();
    let (ready, not_ready) =
        if view.health == Health::Dead { (None, Some(addresses)) } else { (Some(addresses), None) };
    let subset = EndpointSubset {
        addresses: ready,
        not_ready_addresses: not_ready,
        ports: Some(
            ports(remote)
                .map(|p| EndpointPort {
                    name: p.name.clone(),
                    port: i32::from(gateway.port.get()),
                    protocol: p.protocol.clone(),
                    app_protocol: p.app_protocol.clone(),
                })
                .collect(),
        ),
    };
    Endpoints {
        metadata: meta(link, remote, copied_labels(link, remote), notes.into()),
        subsets: served.then(|| vec![subset]),
    }
}

fn meta(link: &Link, remote: &Service, labels: Pairs, annotations: Pairs) -> ObjectMeta {
    ObjectMeta {
        name: Some(names::mirror(&remote.name_any(), &link.cluster)),
        namespace: remote.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

/// Labels under `mirror.linkerd.io/` never travel: that is what stops chains of re-exports.
fn copied_labels(link: &Link, remote: &Service) -> Pairs {
    let travels =
        |key: &str| !key.starts_with(labels::MIRROR_PREFIX) && !link.excluded_labels.contains(key);
    let mut all: Pairs = remote.labels().iter().filter(|(k, _)| travels(k)).map(own).collect();
    all.insert(labels::MIRRORED_SERVICE.into(), "true".into());
    all.insert(labels::MIRROR_CLUSTER_NAME.into(), link.cluster.clone());
    all
}

/// Opaque ports travel unless they are excluded by their full name: a prefix that takes them along by
/// accident would change how traffic is read.
fn copied_annotations(link: &Link, remote: &Service) -> Pairs {
    let stays =
        [annotations::TOPOLOGY_HINTS, annotations::TOPOLOGY_MODE, annotations::LAST_APPLIED];
    let travels = |key: &str| {
        let excluded = if key == annotations::OPAQUE_PORTS {
            link.excluded_annotations.names(key)
        } else {
            link.excluded_annotations.contains(key)
        };
        !stays.contains(&key) && !excluded
    };
    remote.annotations().iter().filter(|(k, _)| travels(k)).map(own).collect()
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn fq_name(link: &Link, remote: &Service) -> String {
    let namespace = remote.namespace().unwrap_or_default();
    format!("{}.{namespace}.svc.{}", remote.name_any(), link.domain)
}

fn ports(remote: &Service) -> impl Iterator<Item = &ServicePort> {
    remote.spec.iter().flat_map(|s| s.ports.iter().flatten())
}

/// The declared protocol travels too: without it west would have to guess.
fn mirror_port(port: &ServicePort) -> ServicePort {
    ServicePort { node_port: None, ..port.clone() }
}
