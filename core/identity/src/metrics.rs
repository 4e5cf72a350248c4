//! # Metrics of the identity service
//!
//! Job: the issuer's remaining life and the gRPC counters.
//! May touch: its own families. Must not touch: a global registry. Callers: `serve`, `run`.

use crate::issuer::IssuerStore;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::time::SystemTime;
use tonic::Code;

/// Handles of all families. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) started: IntCounter,
    handled: IntCounterVec,
    pub(crate) seconds: Histogram,
}

impl Metrics {
    /// Registers the families.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn register(registry: &Registry, issuer: &IssuerStore) -> Result<Self, prometheus::Error> {
        registry.register(Box::new(IssuerTtl::new(issuer.clone())?))?;
        let labelled = |name: &str, help: &str| {
            Opts::new(name, help)
                .const_label("grpc_service", "io.linkerd.proxy.identity.Identity")
                .const_label("grpc_method", "Certify")
                .const_label("grpc_type", "unary")
        };
        let started =
            IntCounter::with_opts(labelled("grpc_server_started_total", "Calls received"))?;
        let handled = labelled("grpc_server_handled_total", "Calls answered");
        let handled = IntCounterVec::new(handled, &["grpc_code"])?;
        let buckets = vec![0.1, 1.0, 300.0, 3600.0];
        let opts = labelled("grpc_server_handling_seconds", "Time to answer");
        let opts = HistogramOpts { common_opts: opts, buckets };
        let seconds = Histogram::with_opts(opts)?;
        registry.register(Box::new(started.clone()))?;
        registry.register(Box::new(handled.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { started, handled, seconds })
    }

    pub(crate) fn handled(&self, code: Code) {
        // Go's names: `OK`, else as the variant is called.
        let name = match code {
            Code::Ok => "OK".to_owned(),
            code => format!("{code:?}"),
        };
        self.handled.with_label_values(&[name]).inc();
    }
}

/// Computed at each scrape: 0 while there is no usable issuer.
struct IssuerTtl {
    issuer: IssuerStore,
    gauge: Gauge,
}

impl IssuerTtl {
    fn new(issuer: IssuerStore) -> Result<Self, prometheus::Error> {
        let gauge = Gauge::new("issuer_cert_ttl_seconds", "Time until the issuer expires")?;
        Ok(Self { issuer, gauge })
    }
}

impl Collector for IssuerTtl {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = SystemTime::now();
        let left = self.issuer.current().map(|i| i.not_after().duration_since(now));
        self.gauge.set(left.and_then(Result::ok).unwrap_or_default().as_secs_f64());
        self.gauge.collect()
    }
}
