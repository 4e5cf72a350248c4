//! # The file
//!
//! Job: the Services that the control plane tells of, and what it says of each.
//! May touch: values. Callers: `control`; the bench writes such a file.

use anyhow::{Context, Result};
use linkerd2_proxy_api::{destination as dst, meta, net};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

/// The whole file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Services by the address that clients dial.
    pub(crate) services: BTreeMap<SocketAddr, Arc<Service>>,
    /// Life of the certificates that are issued.
    #[serde(default = "a_day")]
    pub(crate) leaf_seconds: u64,
    /// At this period one endpoint leaves or returns. 0: never.
    #[serde(default)]
    pub(crate) churn_ms: u64,
    /// At this period every policy is sent anew, changed. 0: never.
    #[serde(default)]
    pub(crate) policy_ms: u64,
}

/// One Service port.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Bytes are not to be looked at.
    #[serde(default)]
    pub(crate) opaque: bool,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    /// Meshed, with this identity.
    #[serde(default)]
    pub(crate) identity: Option<String>,
    /// HTTP may be carried over HTTP/2.
    #[serde(default)]
    pub(crate) h2: bool,
    /// The proxy's own port, where it takes a transport header.
    #[serde(default)]
    pub(crate) opaque_port: Option<u16>,
    /// The endpoint is a gateway: the name and port of the Service behind it.
    #[serde(default)]
    pub(crate) behind: Option<String>,
}

/// A Service with its address.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) addr: SocketAddr,
    pub(crate) service: Arc<Service>,
}

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context("the control plane's file")?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub(crate) fn churn(&self) -> Option<Duration> {
        (self.churn_ms > 0).then(|| Duration::from_millis(self.churn_ms))
    }

    pub(crate) fn policy(&self) -> Option<Duration> {
        (self.policy_ms > 0).then(|| Duration::from_millis(self.policy_ms))
    }

    /// By `ip:port`, or by name and port.
    pub(crate) fn find(&self, path: &str) -> Option<Found> {
        let (addr, service) = self
            .services
            .iter()
            .find(|(addr, service)| path == addr.to_string() || path == service.path(**addr))?;
        Some(Found { addr: *addr, service: service.clone() })
    }
}

impl Service {
    /// The DNS name.
    pub(crate) fn fqdn(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// Name and port, as discovery is asked.
    pub(crate) fn path(&self, addr: SocketAddr) -> String {
        format!("{}:{}", self.fqdn(), addr.port())
    }
}

impl Found {
    pub(crate) fn meta(&self) -> meta::Metadata {
        let resource = meta::Resource {
            group: "core".into(),
            kind: "Service".into(),
            name: self.service.name.clone(),
            namespace: self.service.namespace.clone(),
            section: String::new(),
            port: self.addr.port().into(),
        };
        meta::Metadata { kind: Some(meta::metadata::Kind::Resource(resource)) }
    }

    pub(crate) fn profile(&self) -> dst::DestinationProfile {
        dst::DestinationProfile {
            fully_qualified_name: self.service.fqdn(),
            opaque_protocol: self.service.opaque,
            parent_ref: Some(self.meta()),
            ..dst::DestinationProfile::default()
        }
    }

    pub(crate) fn all(&self) -> dst::Update {
        self.adding(&self.service.endpoints)
    }

    pub(crate) fn add(&self, endpoint: usize) -> dst::Update {
        self.adding(&self.service.endpoints[endpoint..=endpoint])
    }

    pub(crate) fn remove(&self, endpoint: usize) -> dst::Update {
        let addr = net::TcpAddress::from(self.service.endpoints[endpoint].addr);
        let set = dst::AddrSet { addrs: vec![addr] };
        dst::Update { update: Some(dst::update::Update::Remove(set)) }
    }

    fn adding(&self, endpoints: &[Endpoint]) -> dst::Update {
        let labels = [("service", &self.service.name), ("namespace", &self.service.namespace)];
        let set = dst::WeightedAddrSet {
            addrs: endpoints.iter().map(Endpoint::weighted).collect(),
            metric_labels: labels.map(|(k, v)| (k.to_owned(), v.clone())).into(),
        };
        dst::Update { update: Some(dst::update::Update::Add(set)) }
    }
}

impl Endpoint {
    fn weighted(&self) -> dst::WeightedAddr {
        use dst::{protocol_hint as hint, tls_identity as tls};
        let named = |name: &str| tls::DnsLikeIdentity { name: name.to_owned() };
        let hint = dst::ProtocolHint {
            protocol: self.h2.then_some(hint::Protocol::H2(hint::H2 {})),
            opaque_transport: self
                .opaque_port
                .map(|port| hint::OpaqueTransport { inbound_port: port.into() }),
        };
        dst::WeightedAddr {
            addr: Some(self.addr.into()),
            weight: 10_000,
            metric_labels: HashMap::from([("pod".into(), self.addr.ip().to_string())]),
            tls_identity: self.identity.as_deref().map(|name| dst::TlsIdentity {
                strategy: Some(tls::Strategy::DnsLikeIdentity(named(name))),
                server_name: Some(named(name)),
            }),
            protocol_hint: (self.h2 || self.opaque_port.is_some()).then_some(hint),
            authority_override: self
                .behind
                .as_ref()
                .map(|name| dst::AuthorityOverride { authority_override: name.clone() }),
            http2: None,
            resource_ref: None,
        }
    }
}

fn a_day() -> u64 {
    24 * 3600
}
