//! # Detection and transport headers
//!
//! Job: what sniffing found and how long it took; what discovery says that connections speak; which
//! transport headers came.
//! May touch: labels. Callers: inbound and outbound accept paths.

use crate::{
    labels::{Direction, target_ref},
    series::{Buckets, Counter, Family, Histogram, LabelSet, Registrar},
};
use mesh_model::{identity::Identity, meta::Meta, transport::TransportHeader};
use std::time::Duration;

/// The families of detection.
#[derive(Clone, Debug)]
pub struct DetectMetrics {
    inbound: Detect,
    outbound: Detect,
    headers: Family<Counter>,
    protocols: Family<Counter>,
}

/// What an outbound connection speaks, by discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionProtocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// The first bytes decide.
    Detect,
    /// Bytes.
    Opaque,
    /// TLS of the application.
    Tls,
}

#[derive(Clone, Debug)]
struct Detect {
    results: Family<Counter>,
    duration: Family<Histogram>,
}

/// What sniffing for HTTP found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetectResult {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Something else.
    NotHttp,
    /// Nothing in time.
    ReadTimeout,
    /// The connection broke.
    Error,
}

/// Whose transport header.
#[derive(Clone, Copy, Debug)]
pub struct TransportHeaderLabels<'a> {
    /// What it says.
    pub header: &'a TransportHeader,
    /// Who sent it.
    pub client: &'a Identity,
}

const SECONDS: Buckets = &[0.001, 0.1];

impl DetectMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        let help = "Results of HTTP protocol detection";
        let took = "Time that HTTP protocol detection took, seconds";
        Self {
            inbound: Detect {
                results: registrar.counters("inbound_tcp_detect_http_results_total", help),
                duration: registrar.histograms(
                    "inbound_tcp_detect_http_duration_seconds",
                    took,
                    SECONDS,
                ),
            },
            outbound: Detect {
                results: registrar.counters("outbound_tcp_detect_http_results_total", help),
                duration: registrar.histograms(
                    "outbound_tcp_detect_http_duration_seconds",
                    took,
                    SECONDS,
                ),
            },
            headers: registrar.counters(
                "inbound_tcp_transport_header_connections_total",
                "TCP connections with transport headers",
            ),
            protocols: registrar.counters(
                "outbound_tcp_protocol_connections_total",
                "Outbound connections, by what discovery says they speak",
            ),
        }
    }

    /// Connections to a destination with this policy that speak `protocol`; keep it where many come.
    pub fn connections(&self, protocol: ConnectionProtocol, parent: &Meta, port: u16) -> Counter {
        let mut labels = LabelSet::default().with("protocol", protocol.as_str());
        target_ref(&mut labels, "parent", parent, port);
        self.protocols.get(&labels)
    }

    /// Sniffing ended.
    pub fn detected(&self, direction: Direction, result: DetectResult, took: Duration) {
        let families = match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        families.results.get(&LabelSet::default().with("result", result.as_str())).incr();
        families.duration.single().observe(took.as_secs_f64());
    }

    /// A transport header was read.
    pub fn transport_header(&self, labels: TransportHeaderLabels<'_>) {
        let TransportHeaderLabels { header, client } = labels;
        let labels = LabelSet::default()
            .with("session_protocol", header.protocol.map_or("", |p| p.as_str()))
            .with("target_port", header.port.to_string())
            .with("target_name", header.name.as_ref().map_or("", |n| n.as_str()))
            .with("client_id", client.as_str());
        self.headers.get(&labels).incr();
    }
}

impl ConnectionProtocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::Detect => "detect",
            Self::Opaque => "opaq",
            Self::Tls => "tls",
        }
    }
}

impl DetectResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::NotHttp => "not_http",
            Self::ReadTimeout => "read_timeout",
            Self::Error => "error",
        }
    }
}
