//! # How to reach an address
//!
//! Job: the rules that turn a Pod's port, or a gateway's address, into endpoint metadata: identity,
//! protocol hint, opaque transport, labels.
//! May touch: values of the index. Must not touch: channels. Callers: index, profile.

use crate::{
    Config,
    index::pod::{Owner, PodInfo, ProxyPorts},
};
use mesh_model::{
    authority::NameAddr,
    endpoint::{DEFAULT_WEIGHT, EndpointMetadata, Http2Params, Labels, ProtocolHint, TlsTarget},
    identity::Identity,
};
use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

/// A Pod's port, and what the index knows around it.
pub(crate) struct PodPort<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) pod: &'a PodInfo,
    pub(crate) port: u16,
    /// The Pod's owner with ReplicaSets and Jobs replaced by theirs.
    pub(crate) owner: Option<&'a Owner>,
    /// A Server with protocol `opaque` selects this port.
    pub(crate) server_opaque: bool,
}

/// A Pod's address cannot be offered: the error is in its proxy's settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unusable(pub(crate) String);

impl PodPort<'_> {
    /// Metadata of the Pod's port.
    ///
    /// A Pod without a proxy container is not meshed, whatever its labels say: it would answer neither
    /// TLS nor HTTP/2. The control plane's own Pods have none, but speak mesh TLS on their gRPC ports.
    pub(crate) fn metadata(&self, config: &Config) -> Result<EndpointMetadata, Unusable> {
        let base = EndpointMetadata {
            weight: DEFAULT_WEIGHT,
            labels: self.labels(),
            ..EndpointMetadata::default()
        };
        if self.pod.skip_inbound.contains(self.port) {
            return Ok(base);
        }
        let Some(proxy) = &self.pod.proxy else {
            let tls = self.speaks_for_itself(config).then(|| self.identity(config)).flatten();
            return Ok(EndpointMetadata { tls, ..base });
        };
        if self.pod.control_plane_ns().is_none() {
            return Ok(base);
        }
        let opaque = self.opaque(config);
        let hint = match (opaque, config.enable_h2_upgrade) {
            (true, _) => ProtocolHint::Opaque,
            (false, true) => ProtocolHint::Http2,
            (false, false) => ProtocolHint::Unknown,
        };
        Ok(EndpointMetadata {
            tls: self.identity(config),
            hint,
            opaque_transport: self.opaque_transport(proxy, opaque, config)?,
            http2: config.meshed_http2,
            ..base
        })
    }

    /// Whether the port is carried as opaque TCP: by the Pod's annotation, else the default list; or by
    /// a Server.
    pub(crate) fn opaque(&self, config: &Config) -> bool {
        let listed = self.pod.opaque.as_ref().unwrap_or(&config.default_opaque_ports);
        listed.contains(self.port) || self.server_opaque
    }

    fn opaque_transport(
        &self,
        proxy: &ProxyPorts,
        opaque: bool,
        config: &Config,
    ) -> Result<Option<NonZeroU16>, Unusable> {
        let wanted = config.transport_header || opaque;
        let port = NonZeroU16::new(self.port);
        if !wanted || port == proxy.admin || port == proxy.control {
            return Ok(None);
        }
        match &proxy.inbound {
            Ok(inbound @ Some(_)) => Ok(*inbound),
            Ok(None) => Err(Unusable("the proxy has no LINKERD2_PROXY_INBOUND_LISTEN_ADDR".into())),
            Err(text) => Err(Unusable(format!(
                "LINKERD2_PROXY_INBOUND_LISTEN_ADDR={text:?} of the proxy is not ip:port"
            ))),
        }
    }

    /// Only a Pod of this control plane has an identity that its clients can verify.
    fn identity(&self, config: &Config) -> Option<TlsTarget> {
        if self.pod.control_plane_ns() != Some(config.controller_namespace.as_str()) {
            return None;
        }
        let domain = config.trust_domain.as_deref()?;
        let id = Identity::of_service_account(
            &self.pod.service_account,
            self.namespace,
            &config.controller_namespace,
            domain,
        );
        match id {
            Ok(Identity::Dns(name)) => {
                Some(TlsTarget { server_name: name.clone(), id: Identity::Dns(name) })
            }
            Ok(Identity::Uri(_)) | Err(_) => None,
        }
    }

    /// Whether this is a gRPC port of the control plane, which ends mesh TLS without a sidecar.
    fn speaks_for_itself(&self, config: &Config) -> bool {
        let component = self.pod.labels.get(mesh_k8s::labels::CONTROL_PLANE_COMPONENT);
        self.namespace == config.controller_namespace
            && match component.map(String::as_str) {
                Some("identity") => self.port == 8080,
                Some("destination") => matches!(self.port, 8086 | 8090),
                _ => false,
            }
    }

    fn labels(&self) -> Labels {
        let mut labels = BTreeMap::from([
            ("pod".to_owned(), self.name.to_owned()),
            ("serviceaccount".to_owned(), self.pod.service_account.clone()),
        ]);
        if let Some(owner) = self.owner {
            labels.insert(owner_label(&owner.kind), owner.name.clone());
        }
        if let (Some(ns), true) = (self.pod.control_plane_ns(), self.pod.proxy.is_some()) {
            labels.insert("control_plane_ns".to_owned(), ns.to_owned());
        }
        if let Some(hash) = self.pod.labels.get(mesh_k8s::labels::POD_TEMPLATE_HASH) {
            labels.insert("pod_template_hash".to_owned(), hash.clone());
        }
        Arc::new(labels)
    }
}

/// Metadata of an address without a Pod: plain, unless the slice says that a gateway is behind it.
pub(crate) fn of_gateway(
    gateway_identity: Option<&str>,
    authority: Option<NameAddr>,
    http2: Http2Params,
) -> Result<EndpointMetadata, Unusable> {
    let base = EndpointMetadata {
        weight: DEFAULT_WEIGHT,
        authority_override: authority,
        ..EndpointMetadata::default()
    };
    let Some(identity) = gateway_identity else { return Ok(base) };
    // Sending in plaintext to a gateway whose identity cannot be read would be the wrong way to be lenient.
    let name: mesh_model::identity::DnsName = identity
        .parse()
        .map_err(|e| Unusable(format!("the gateway identity {identity:?} is not valid: {e}")))?;
    let tls = Some(TlsTarget { id: Identity::Dns(name.clone()), server_name: name });
    Ok(EndpointMetadata { tls, hint: ProtocolHint::Http2, http2, ..base })
}

fn owner_label(kind: &str) -> String {
    match kind.to_ascii_lowercase().as_str() {
        // `job` is the label by which Prometheus names its own scrape.
        "job" => "k8s_job".to_owned(),
        other => other.to_owned(),
    }
}
