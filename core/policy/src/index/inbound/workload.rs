//! # Workloads, as inbound policy needs them
//!
//! Job: parse meshed Pods into small values. Callers: the inbound index.

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};
use mesh_k8s::{annotations, labels};
use mesh_model::{inbound::DefaultPolicy, ports::PortSet};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What matters of a meshed Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) labels: BTreeMap<String, String>,
    /// TCP ports by container port name.
    pub(crate) named: HashMap<String, BTreeSet<u16>>,
    /// Paths that the kubelet asks for, by port.
    pub(crate) probes: HashMap<u16, BTreeSet<String>>,
    pub(crate) default_policy: Option<DefaultPolicy>,
    pub(crate) require_identity: PortSet,
    /// No cluster default here: the injector has written what applies to the Pod's ports.
    pub(crate) opaque: PortSet,
}

impl Workload {
    /// `None` for a Pod outside of the mesh, by the injector's label. Discovery goes by the proxy container,
    /// since it must know whether something listens there; here a proxy asks about itself.
    pub(crate) fn parse(pod: &core::Pod) -> Option<Self> {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        if !labels.contains_key(labels::CONTROL_PLANE_NS) {
            return None;
        }
        let default_spec = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&default_spec);
        let containers: Vec<_> =
            spec.init_containers.iter().flatten().chain(&spec.containers).collect();
        let named = named_ports(&containers);
        let annotation = |key: &str| pod.metadata.annotations.as_ref()?.get(key);
        let ports = |key: &str| {
            let by_name = |name: &str| named.get(name).cloned().unwrap_or_default();
            annotation(key).map(|t| PortSet::from_annotation(t, by_name)).unwrap_or_default()
        };
        let default_policy = annotation(annotations::DEFAULT_INBOUND_POLICY).and_then(|text| {
            let policy = text.parse();
            if let Err(error) = &policy {
                let (ns, name) = (&pod.metadata.namespace, &pod.metadata.name);
                tracing::warn!(?ns, ?name, %error, "default policy annotation ignored");
            }
            policy.ok()
        });
        Some(Self {
            probes: probes(&containers),
            default_policy,
            require_identity: ports(annotations::REQUIRE_IDENTITY_PORTS),
            opaque: ports(annotations::OPAQUE_PORTS),
            labels,
            named,
        })
    }
}

fn named_ports(containers: &[&core::Container]) -> HashMap<String, BTreeSet<u16>> {
    let mut named: HashMap<String, BTreeSet<u16>> = HashMap::new();
    for port in containers.iter().flat_map(|c| c.ports.iter().flatten()) {
        let tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        if let (true, Some(name), Some(number)) = (tcp, &port.name, number(port.container_port)) {
            named.entry(name.clone()).or_default().insert(number);
        }
    }
    named
}

/// HTTP probes of all containers. A probe's port name is one of its own container's.
fn probes(containers: &[&core::Container]) -> HashMap<u16, BTreeSet<String>> {
    let mut probes: HashMap<u16, BTreeSet<String>> = HashMap::new();
    for container in containers {
        let all = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for get in all.into_iter().flatten().filter_map(|p| p.http_get.as_ref()) {
            let port = match &get.port {
                IntOrString::Int(port) => number(*port),
                IntOrString::String(name) => {
                    let mut ports = container.ports.iter().flatten();
                    let port = ports.find(|p| p.name.as_ref() == Some(name));
                    port.and_then(|p| number(p.container_port)).or_else(|| name.parse().ok())
                }
            };
            let Some(port) = port else { continue };
            let path = get.path.as_deref().unwrap_or("/");
            let path = path.split('?').next().filter(|p| !p.is_empty()).unwrap_or("/");
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            probes.entry(port).or_default().insert(path);
        }
    }
    probes
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}
