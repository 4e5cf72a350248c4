//! # Plan
//!
//! Job: from what there should be and what is there to the fewest writes, and to the status. Pure.
//! May touch: objects. Must not touch: the network (`apply.rs`). Callers: `index.rs`.

use super::{
    Key,
    desired::{Desired, Refusal, is_ours},
};
use k8s_openapi::api::core::v1::{EndpointSubset, Endpoints, Service, ServicePort};
use kube::ResourceExt;
use mesh_k8s::annotations;
use mesh_link::Link;
use std::collections::{BTreeMap, BTreeSet};

/// What to do for one exported Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The mirror's namespace and name.
    pub(crate) mirror: Key,
    pub(crate) service: Write<Service>,
    pub(crate) endpoints: Write<Endpoints>,
    /// What the Link's status says once the writes are done; `None`: no entry.
    pub(crate) verdict: Option<Verdict>,
}

/// One write, one API call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write<K> {
    Nothing,
    Create(Box<K>),
    /// Carries the known resourceVersion, so that a stale plan cannot overwrite anything.
    Replace(Box<K>),
    /// Carries the uid.
    Delete(Option<String>),
}

/// What the status says of an exported Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Mirrored,
    Refused(Refusal),
}

impl Plan {
    pub(crate) fn writes_nothing(&self) -> bool {
        self.service == Write::Nothing && self.endpoints == Write::Nothing
    }
}

/// Compares.
pub(crate) fn plan(
    link: &Link,
    mirror: &Key,
    desired: Desired,
    service: Option<&Service>,
    endpoints: Option<&Endpoints>,
) -> Plan {
    let cluster = &link.cluster;
    let mine = Mine { service, endpoints, cluster };
    let (service, endpoints, verdict) = match desired {
        Desired::Absent => (mine.delete_service(), mine.delete_endpoints(), None),
        Desired::Refused(refusal) => {
            (mine.delete_service(), mine.delete_endpoints(), Some(Verdict::Refused(refusal)))
        }
        Desired::Blocked(refusal) => {
            (Write::Nothing, Write::Nothing, Some(Verdict::Refused(refusal)))
        }
        Desired::Mirror { .. } if mine.is_foreign() => {
            (Write::Nothing, Write::Nothing, Some(Verdict::Refused(foreign(mirror))))
        }
        Desired::Mirror { service: want, endpoints: wanted, keep_readiness } => {
            let service = write_service(*want, service);
            let both = service != Write::Nothing;
            let endpoints = match wanted {
                None => mine.delete_endpoints(),
                Some(want) => write_endpoints(*want, endpoints, keep_readiness, both),
            };
            (service, endpoints, Some(Verdict::Mirrored))
        }
    };
    Plan { mirror: mirror.clone(), service, endpoints, verdict }
}

/// The answer to an object of that name that we have not made.
pub(crate) fn foreign(mirror: &Key) -> Refusal {
    Refusal {
        reason: "Error",
        message: format!(
            "Failed to create mirror service: {}/{} exists and is not a mirror of this cluster; rename or delete it",
            mirror.namespace, mirror.name
        ),
        event: None,
    }
}

struct Mine<'a> {
    service: Option<&'a Service>,
    endpoints: Option<&'a Endpoints>,
    cluster: &'a str,
}

impl Mine<'_> {
    /// Somebody else's object stands in the way.
    fn is_foreign(&self) -> bool {
        self.service.is_some_and(|s| !is_ours(s, self.cluster))
            || self.endpoints.is_some_and(|e| !is_ours(e, self.cluster))
    }

    fn delete_service(&self) -> Write<Service> {
        delete(self.service.filter(|s| is_ours(*s, self.cluster)))
    }

    fn delete_endpoints(&self) -> Write<Endpoints> {
        delete(self.endpoints.filter(|e| is_ours(*e, self.cluster)))
    }
}

fn delete<K: kube::Resource>(object: Option<&K>) -> Write<K> {
    object.map_or(Write::Nothing, |o| Write::Delete(o.meta().uid.clone()))
}

fn write_service(want: Service, have: Option<&Service>) -> Write<Service> {
    let Some(have) = have else { return Write::Create(Box::new(want)) };
    let version = |s: &Service| s.annotations().get(annotations::REMOTE_RESOURCE_VERSION).cloned();
    let unchanged = version(have) == version(&want)
        && holds(have.labels(), want.labels())
        && holds(have.annotations(), want.annotations())
        && port_set(have) == port_set(&want);
    if unchanged {
        return Write::Nothing;
    }
    // Everything that the API server has filled in stays (cluster IPs above all).
    let mut next = have.clone();
    next.metadata.labels = want.metadata.labels;
    next.metadata.annotations = want.metadata.annotations;
    if let (Some(spec), Some(want)) = (&mut next.spec, want.spec) {
        spec.ports = want.ports;
    }
    Write::Replace(Box::new(next))
}

/// `both`: the Service is written too, so labels that the remote one lost go here as well.
fn write_endpoints(
    mut want: Endpoints,
    have: Option<&Endpoints>,
    keep_readiness: bool,
    both: bool,
) -> Write<Endpoints> {
    let Some(have) = have else { return Write::Create(Box::new(want)) };
    let mut places = place_set(&want);
    let known = place_set(have);
    let without_readiness = |p: &BTreeSet<Place>| {
        p.iter().map(|p| (p.ip.clone(), p.port.clone())).collect::<BTreeSet<_>>()
    };
    if keep_readiness && without_readiness(&places) == without_readiness(&known) {
        want.subsets.clone_from(&have.subsets);
        places = known.clone();
    }
    let labels =
        if both { have.labels() == want.labels() } else { holds(have.labels(), want.labels()) };
    if labels && holds(have.annotations(), want.annotations()) && places == known {
        return Write::Nothing;
    }
    let mut next = want;
    next.metadata.resource_version.clone_from(&have.metadata.resource_version);
    next.metadata.uid.clone_from(&have.metadata.uid);
    Write::Replace(Box::new(next))
}

/// True if `have` says all that `want` does. What others have added is not ours to fight over.
fn holds(have: &BTreeMap<String, String>, want: &BTreeMap<String, String>) -> bool {
    want.iter().all(|(k, v)| have.get(k) == Some(v))
}

type PortFacts = (Option<String>, i32, String, Option<String>, Option<String>);

/// Ports without order, with the defaults that the API server fills in.
fn port_set(service: &Service) -> BTreeSet<PortFacts> {
    let facts = |p: &ServicePort| {
        let target = match &p.target_port {
            Some(target) => serde_json::to_string(target).ok(),
            None => Some(p.port.to_string()),
        };
        (
            named(p.name.as_ref()),
            p.port,
            protocol(p.protocol.as_ref()),
            target,
            p.app_protocol.clone(),
        )
    };
    service.spec.iter().flat_map(|s| s.ports.iter().flatten()).map(facts).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ip: String,
    ready: bool,
    port: (Option<String>, i32, String, Option<String>),
}

/// Addresses times ports, without order: API servers sort and regroup subsets.
fn place_set(endpoints: &Endpoints) -> BTreeSet<Place> {
    let mut all = BTreeSet::new();
    for subset in endpoints.subsets.iter().flatten() {
        for (ip, ready) in addresses(subset) {
            for p in subset.ports.iter().flatten() {
                let port = (
                    named(p.name.as_ref()),
                    p.port,
                    protocol(p.protocol.as_ref()),
                    p.app_protocol.clone(),
                );
                all.insert(Place { ip: ip.to_owned(), ready, port });
            }
        }
    }
    all
}

fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&str, bool)> {
    let ready = subset.addresses.iter().flatten().map(|a| (a.ip.as_str(), true));
    ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a.ip.as_str(), false)))
}

fn named(name: Option<&String>) -> Option<String> {
    name.filter(|n| !n.is_empty()).cloned()
}

fn protocol(protocol: Option<&String>) -> String {
    protocol.cloned().unwrap_or_else(|| "TCP".into())
}
