//! # Errors
//!
//! Job: `{inbound,outbound}_{http,tcp}_errors_total`, which appear with their first occurrence.
//! May touch: labels. Callers: where an error becomes a response or a closed connection.

use crate::{
    labels::{server, target},
    series::{Counter, Family, LabelSet, Registrar},
};
use mesh_model::meta::Meta;
use std::net::SocketAddr;

/// The families of errors.
#[derive(Clone, Debug)]
pub struct ErrorMetrics {
    inbound_http: Family<Counter>,
    inbound_tcp: Family<Counter>,
    outbound_http: Family<Counter>,
    outbound_tcp: Family<Counter>,
    direct: Family<Counter>,
}

/// Where an inbound error struck.
#[derive(Clone, Copy, Debug)]
pub struct InboundErrorLabels<'a> {
    /// Original destination.
    pub target: SocketAddr,
    /// The Server, once known.
    pub server: Option<&'a Meta>,
}

impl ErrorMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            inbound_http: registrar.counters(
                "inbound_http_errors_total",
                "The total number of inbound HTTP requests that could not be processed due to a proxy error.",
            ),
            inbound_tcp: registrar.counters(
                "inbound_tcp_errors_total",
                "The total number of inbound TCP connections that could not be processed due to a proxy error.",
            ),
            outbound_http: registrar.counters(
                "outbound_http_errors_total",
                "The total number of outbound HTTP requests that could not be processed due to a proxy error.",
            ),
            outbound_tcp: registrar.counters(
                "outbound_tcp_errors_total",
                "The total number of outbound TCP connections that could not be processed due to a proxy error.",
            ),
            direct: registrar.counters(
                "inbound_direct_refusals_total",
                "The total number of connections to the proxy's own inbound port that were refused, by reason.",
            ),
        }
    }

    /// An inbound request failed; `error` is a label value such as `gateway loop`.
    pub fn inbound_http(&self, error: &str, at: InboundErrorLabels<'_>) {
        self.inbound_http.get(&at.set(error)).incr();
    }

    /// An inbound connection failed.
    pub fn inbound_tcp(&self, error: &str, at: InboundErrorLabels<'_>) {
        self.inbound_tcp.get(&at.set(error)).incr();
    }

    /// A connection to the inbound port itself was refused.
    pub fn direct_refused(&self, reason: &str) {
        self.direct.get(&LabelSet::default().with("reason", reason)).incr();
    }

    /// An outbound request failed.
    pub fn outbound_http(&self, error: &str) {
        self.outbound_http.get(&LabelSet::default().with("error", error)).incr();
    }

    /// An outbound connection failed.
    pub fn outbound_tcp(&self, error: &str, to: SocketAddr) {
        let mut labels = LabelSet::default();
        target(&mut labels, to);
        self.outbound_tcp.get(&labels.with("error", error)).incr();
    }
}

impl InboundErrorLabels<'_> {
    fn set(&self, error: &str) -> LabelSet {
        let mut labels = LabelSet::default().with("error", error);
        target(&mut labels, self.target);
        if let Some(meta) = self.server {
            server(&mut labels, meta, self.target.port());
        }
        labels
    }
}
