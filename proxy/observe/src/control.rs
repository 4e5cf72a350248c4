//! # Clients of the control plane
//!
//! Job: `control_request_total` and its kin, `control_*_balancer_*`, `control_dns_resolutions_total`.
//! May touch: labels. Callers: the wiring, which hands the handles to the clients.

use crate::{
    balance::{BalancerMeter, BalancerMetrics, BalancerNames},
    http::{HttpMetrics, HttpSeries},
    labels::Tls,
    series::{Counter, Family, LabelSet, Registrar},
};
use std::time::Duration;

/// The families of control-plane clients.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    http: HttpMetrics,
    identity: BalancerMetrics,
    destination: BalancerMetrics,
    policy: BalancerMetrics,
    collector: BalancerMetrics,
    resolutions: Family<Counter>,
}

/// Which service is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlClient {
    /// Certificates.
    Identity,
    /// Profiles and endpoints.
    Destination,
    /// Policies.
    Policy,
    /// Where spans go.
    Collector,
}

/// Kind of DNS records that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsRecords {
    /// Services.
    Srv,
    /// Addresses.
    Ip,
}

/// How a DNS look-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsResult {
    /// With an address.
    Ok,
    /// The name has none.
    NotFound,
    /// No server gave an answer.
    Error,
}

impl ControlMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        let names =
            ["control_request_total", "control_response_total", "control_response_latency_ms"];
        Self {
            http: HttpMetrics::new(registrar, names),
            identity: BalancerMetrics::new(registrar, BalancerNames::IDENTITY, None),
            destination: BalancerMetrics::new(registrar, BalancerNames::DESTINATION, None),
            policy: BalancerMetrics::new(registrar, BalancerNames::POLICY, None),
            collector: BalancerMetrics::new(registrar, BalancerNames::OPENTELEMETRY, None),
            resolutions: registrar
                .counters("control_dns_resolutions_total", "DNS look-ups of control-plane names."),
        }
    }

    /// Calls to the service at `addr` (as configured).
    pub fn calls(&self, addr: &str, tls: &Tls) -> HttpSeries {
        let mut labels = LabelSet::default().with("addr", addr);
        tls.write(&mut labels);
        self.http.series(labels)
    }

    /// The meter of a client's connections.
    pub fn meter(&self, client: ControlClient, addr: &str, failfast: Duration) -> BalancerMeter {
        let families = match client {
            ControlClient::Identity => &self.identity,
            ControlClient::Destination => &self.destination,
            ControlClient::Policy => &self.policy,
            ControlClient::Collector => &self.collector,
        };
        families.meter(LabelSet::default().with("addr", addr), failfast)
    }

    /// A DNS look-up ended.
    pub fn resolved(&self, client: ControlClient, records: DnsRecords, result: DnsResult) {
        let records = match records {
            DnsRecords::Srv => "SRV",
            DnsRecords::Ip => "A/AAAA",
        };
        let result = match result {
            DnsResult::Ok => "ok",
            DnsResult::NotFound => "not_found",
            DnsResult::Error => "error",
        };
        let labels = LabelSet::default()
            .with("client", client.as_str())
            .with("record_type", records)
            .with("result", result);
        self.resolutions.get(&labels).incr();
    }
}

impl ControlClient {
    fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Destination => "destination",
            Self::Policy => "policy",
            Self::Collector => "opentelemetry",
        }
    }
}
