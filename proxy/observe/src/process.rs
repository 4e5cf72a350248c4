//! # Identity and build
//!
//! Job: when the certificate was renewed and ends; which build this is.
//! May touch: labels. Callers: the wiring.

use crate::series::{Counter, Family, Gauge, LabelSet, Registrar};
use std::time::{SystemTime, UNIX_EPOCH};

/// The families of the certificate.
#[derive(Clone, Debug)]
pub struct IdentityMetrics {
    expiration: Family<Gauge>,
    refreshed: Family<Gauge>,
    refreshes: Family<Counter>,
}

impl IdentityMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            expiration: registrar.gauges(
                "control_identity_cert_expiration_timestamp_seconds",
                "Time when the workload's current certificate will expire, Unix seconds",
            ),
            refreshed: registrar.gauges(
                "control_identity_cert_refresh_timestamp_seconds",
                "Time when the workload's certificate was last updated, Unix seconds",
            ),
            refreshes: registrar.counters(
                "control_identity_cert_refreshes_total",
                "The total number of times the workload's certificate has been updated",
            ),
        }
    }

    /// A certificate that ends at `expiry` was installed at `now`.
    pub fn refreshed(&self, now: SystemTime, expiry: SystemTime) {
        self.resumed(expiry);
        self.refreshed.single().set(unix(now));
        self.result("ok");
    }

    /// A certificate of an earlier life of this process is in use.
    pub fn resumed(&self, expiry: SystemTime) {
        self.expiration.single().set(unix(expiry));
    }

    /// A certificate could not be had.
    pub fn failed(&self) {
        self.result("error");
    }

    fn result(&self, result: &str) {
        self.refreshes.get(&LabelSet::default().with("result", result)).incr();
    }
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Registers `proxy_build_info` = 1. The gauge stays while the result is held.
pub fn build_info(registrar: &Registrar, version: &str, profile: &str) -> Gauge {
    let labels = LabelSet::default()
        .with("date", "")
        .with("git_sha", "")
        .with("profile", profile)
        .with("vendor", "mesh")
        .with("version", version);
    let gauge = registrar.gauges("proxy_build_info", "Proxy build info").get(&labels);
    gauge.set(1);
    gauge
}
