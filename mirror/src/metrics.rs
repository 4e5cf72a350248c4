//! # Metrics
//!
//! Job: the families that Linkerd's service mirror has, for its dashboards.
//! May touch: a registry. Must not touch: what is measured. Callers: `term.rs`, `lib.rs`.

use mesh_link::probe::{Health, driver::Report};
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// The families; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    enabled: GaugeVec,
    alive: GaugeVec,
    latency: GaugeVec,
    latencies: HistogramVec,
    probes: IntCounterVec,
    repairs: IntCounterVec,
}

const CLUSTER: &str = "target_cluster_name";

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<GaugeVec, prometheus::Error> {
            let family = GaugeVec::new(Opts::new(name, help), &[CLUSTER])?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let mut buckets = Vec::new();
        for (from, step) in [(1u32, 1u32), (10, 10), (100, 100), (1000, 1000), (10_000, 10_000)] {
            buckets.extend((0..5).map(|n| f64::from(from + n * step)));
        }
        let latencies =
            HistogramOpts::new("gateway_probe_latency_ms", "Latency of probes, in milliseconds.");
        let latencies = HistogramVec::new(latencies.buckets(buckets), &[CLUSTER])?;
        let probes = Opts::new("gateway_probes", "Probes of gateways.");
        let probes = IntCounterVec::new(probes, &[CLUSTER, "probe_successful"])?;
        let repairs = Opts::new(
            "service_mirror_endpoint_repairs",
            "Rewrites of mirror Endpoints after the gateway changed.",
        );
        let repairs = IntCounterVec::new(repairs, &[CLUSTER])?;
        registry.register(Box::new(latencies.clone()))?;
        registry.register(Box::new(probes.clone()))?;
        registry.register(Box::new(repairs.clone()))?;
        Ok(Self {
            enabled: gauge("gateway_enabled", "1 if the Link has a gateway that is probed.")?,
            alive: gauge("gateway_alive", "1 if the gateway answers probes.")?,
            latency: gauge("gateway_latency", "Latency of the last good probe, in milliseconds.")?,
            latencies,
            probes,
            repairs,
        })
    }

    /// A Link is served.
    pub(crate) fn started(&self, cluster: &str, probed: bool) {
        self.enabled.with_label_values(&[cluster]).set(f64::from(u8::from(probed)));
    }

    /// A Link is no longer served here.
    pub(crate) fn stopped(&self, cluster: &str) {
        // A series that is not there is as gone as can be.
        for family in [&self.enabled, &self.alive, &self.latency] {
            let _ = family.remove_label_values(&[cluster]);
        }
        let _ = self.latencies.remove_label_values(&[cluster]);
    }

    /// A probe has told something new.
    pub(crate) fn probed(&self, cluster: &str, before: &Report, now: &Report) {
        self.alive
            .with_label_values(&[cluster])
            .set(f64::from(u8::from(now.health == Health::Alive)));
        self.probes.with_label_values(&[cluster, "true"]).inc_by(now.successes - before.successes);
        self.probes.with_label_values(&[cluster, "false"]).inc_by(now.failures - before.failures);
        if let Some(latency) = now.latency.filter(|_| now.successes > before.successes) {
            let ms = latency.as_secs_f64() * 1000.0;
            self.latency.with_label_values(&[cluster]).set(ms.round());
            self.latencies.with_label_values(&[cluster]).observe(ms);
        }
    }

    /// The gateway's addresses or health changed, and mirrors are rewritten.
    pub(crate) fn repaired(&self, cluster: &str) {
        self.repairs.with_label_values(&[cluster]).inc();
    }
}
