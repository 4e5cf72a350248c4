//! # Services and their slices, as discovery needs them
//!
//! Job: parse Services and EndpointSlices into small values; resolve a Service port.
//! May touch: object types. Callers: the index.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_k8s::{annotations, labels};
use mesh_model::{authority::ServiceName, ports::PortSet};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What matters of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceInfo {
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<ServicePort>,
    /// `None` without the annotation: the default list holds.
    pub(crate) opaque: Option<PortSet>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) remote_fq_name: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) local_only: bool,
}

/// How the Service's endpoints are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In its slices.
    Local,
    /// Nowhere.
    ExternalName,
    /// In another cluster: flat mirrors and federated Services, whose place in the index this is.
    Remote,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Empty for the only port of a Service.
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// What matters of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceInfo {
    pub(crate) service: ServiceName,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
    pub(crate) gateway_identity: Option<String>,
    pub(crate) remote_fq_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) for_zones: Arc<[String]>,
    pub(crate) target: Target,
}

/// What an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Pod: namespace and name.
    Pod(String, String),
    /// Nothing in this cluster: a gateway, or a Service without selector.
    None,
    /// A kind that is not served yet (ExternalWorkload).
    Other,
}

impl ServiceInfo {
    pub(crate) fn parse(object: &core::Service) -> Self {
        let spec = object.spec.clone().unwrap_or_default();
        let tcp = |p: &core::ServicePort| p.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let ports: Vec<_> = spec
            .ports
            .iter()
            .flatten()
            .filter(|p| tcp(p))
            .filter_map(|p| Some(named(p.name.as_deref(), number(p.port)?)))
            .collect();
        let annotation = |key: &str| object.metadata.annotations.as_ref()?.get(key);
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let by_name = |name: &str| -> Vec<u16> {
            ports.iter().filter(|p| p.name == name).map(|p| p.port).collect()
        };
        let opaque = annotation(annotations::OPAQUE_PORTS)
            .map(|text| PortSet::from_annotation(text, by_name));
        let federated = annotation(annotations::REMOTE_DISCOVERY).is_some()
            || annotation(annotations::LOCAL_DISCOVERY).is_some();
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => Kind::ExternalName,
            _ if federated || labels.contains_key(labels::REMOTE_DISCOVERY) => Kind::Remote,
            _ => Kind::Local,
        };
        let mut ips = spec.cluster_ips.clone().unwrap_or_default();
        ips.extend(spec.cluster_ip.clone());
        let mut cluster_ips: Vec<_> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        cluster_ips.dedup();
        Self {
            cluster_ips,
            opaque,
            remote_fq_name: annotation(annotations::REMOTE_FQ_NAME).cloned(),
            labels,
            kind,
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            ports,
        }
    }

    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|p| p.port == port)
    }

    /// Whether this Service is itself a copy of one in another cluster.
    pub(crate) fn is_mirror(&self) -> bool {
        self.labels.contains_key(labels::MIRRORED_SERVICE)
            || self.labels.contains_key(labels::MIRROR_CLUSTER_NAME)
    }
}

impl SliceInfo {
    /// `None` for a slice that belongs to no Service.
    pub(crate) fn parse(object: &discovery::EndpointSlice) -> Option<Self> {
        let meta = &object.metadata;
        let service = ServiceName { namespace: meta.namespace.clone()?, name: service_of(meta)? };
        let tcp = |p: &&discovery::EndpointPort| p.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let ports = object.ports.iter().flatten().filter(tcp);
        let annotation =
            |key: &str| meta.annotations.as_ref()?.get(key).filter(|v| !v.is_empty()).cloned();
        Some(Self {
            service,
            ports: ports.filter_map(|p| Some(named(p.name.as_deref(), number(p.port?)?))).collect(),
            endpoints: object.endpoints.iter().filter_map(SliceEndpoint::parse).collect(),
            gateway_identity: annotation(annotations::REMOTE_GATEWAY_IDENTITY),
            remote_fq_name: annotation(annotations::REMOTE_FQ_NAME),
        })
    }

    /// The port behind a Service's port: matched by the Service port's name; a port that the Service
    /// does not declare is taken as the target port itself.
    pub(crate) fn target_port(&self, service: &ServiceInfo, port: u16) -> Option<u16> {
        match service.ports.iter().find(|p| p.port == port) {
            Some(declared) => self.ports.iter().find(|p| p.name == declared.name).map(|p| p.port),
            None if self.ports.is_empty() => None,
            None => Some(port),
        }
    }
}

impl SliceEndpoint {
    /// `None` for an endpoint that is not ready (absent counts as ready).
    fn parse(endpoint: &discovery::Endpoint) -> Option<Self> {
        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        if !ready {
            return None;
        }
        let target = match &endpoint.target_ref {
            None => Target::None,
            Some(r) if r.kind.as_deref() == Some("Pod") => {
                Target::Pod(r.namespace.clone().unwrap_or_default(), r.name.clone()?)
            }
            Some(_) => Target::Other,
        };
        let hints = endpoint.hints.as_ref().and_then(|h| h.for_zones.as_ref());
        Some(Self {
            ips: endpoint.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            hostname: endpoint.hostname.clone(),
            node: endpoint.node_name.as_deref().map(Into::into),
            zone: endpoint.zone.as_deref().map(Into::into),
            for_zones: hints.into_iter().flatten().map(|z| z.name.clone()).collect(),
            target,
        })
    }
}

fn service_of(meta: &ObjectMeta) -> Option<String> {
    let labelled = meta.labels.as_ref().and_then(|l| l.get(labels::SLICE_SERVICE_NAME)).cloned();
    labelled.or_else(|| {
        let owners = meta.owner_references.as_ref()?;
        owners.iter().find(|o| o.kind == "Service").map(|o| o.name.clone())
    })
}

fn named(name: Option<&str>, port: u16) -> ServicePort {
    ServicePort { name: name.unwrap_or_default().to_owned(), port }
}

/// A port number of Kubernetes, which are 32 bits wide and signed.
pub(crate) fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}
