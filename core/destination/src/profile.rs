//! # Profiles
//!
//! Job: the answer of `GetProfile` for a Service's port, for a Pod's, and for an address that nobody
//! knows. Routes of ServiceProfiles will join here.
//! May touch: values of the index. Callers: index.

use crate::{Config, endpoint::PodPort, index::service::ServiceInfo};
use mesh_model::{
    authority::ServiceName,
    endpoint::{DEFAULT_WEIGHT, Endpoint, EndpointMetadata},
    meta::{Meta, Resource},
    profile::{Profile, RetryBudget},
};
use std::{net::SocketAddr, sync::Arc};

/// The profile of a Service's port; empty if the Service does not declare that port, which tells the
/// client that there is nothing to balance over.
pub(crate) fn of_service(
    config: &Config,
    name: &ServiceName,
    service: &ServiceInfo,
    port: u16,
) -> Profile {
    if !service.has_port(port) {
        return Profile::default();
    }
    let parent = Resource {
        group: "core".to_owned(),
        kind: "Service".to_owned(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        section: String::new(),
        port,
    };
    Profile {
        fqn: name.fqdn(&config.cluster_domain).parse().ok(),
        opaque: service.opaque.as_ref().unwrap_or(&config.default_opaque_ports).contains(port),
        parent: Some(Meta::Resource(parent.into())),
        budget: Some(RetryBudget::default()),
        ..Profile::default()
    }
}

/// The profile of a Pod's port.
pub(crate) fn of_pod(config: &Config, addr: SocketAddr, pod: &PodPort<'_>) -> Profile {
    let mut metadata = pod.metadata(config).unwrap_or_else(|unusable| {
        tracing::error!(pod = pod.name, namespace = pod.namespace, reason = %unusable.0, "Pod offered as unmeshed");
        EndpointMetadata { weight: DEFAULT_WEIGHT, ..EndpointMetadata::default() }
    });
    let labels = Arc::make_mut(&mut metadata.labels);
    labels.insert("namespace".to_owned(), pod.namespace.to_owned());
    Profile {
        opaque: pod.opaque(config),
        endpoint: Some(Endpoint { addr, metadata: Arc::new(metadata) }),
        budget: Some(RetryBudget::default()),
        ..Profile::default()
    }
}

/// The profile of an address outside of what is watched.
pub(crate) fn of_address(config: &Config, addr: SocketAddr) -> Profile {
    let metadata = EndpointMetadata { weight: DEFAULT_WEIGHT, ..EndpointMetadata::default() };
    Profile {
        opaque: config.default_opaque_ports.contains(addr.port()),
        endpoint: Some(Endpoint { addr, metadata: Arc::new(metadata) }),
        budget: Some(RetryBudget::default()),
        ..Profile::default()
    }
}
