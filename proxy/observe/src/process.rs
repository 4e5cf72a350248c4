//! # Identity and build
//!
//! Job: when the certificate was renewed and ends; which build this is, with which TLS.
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

/// Which build this is. What is not known is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Build<'a> {
    /// When it was built.
    pub date: &'a str,
    /// From which commit.
    pub git_sha: &'a str,
    /// `release` or `debug`.
    pub profile: &'a str,
    /// Version.
    pub version: &'a str,
}

/// What mesh TLS is made of; lists are separated by commas.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// Cipher suites, best first.
    pub suites: String,
    /// Key exchange groups, best first.
    pub kx_groups: String,
    /// Source of randomness.
    pub rand: String,
    /// Loader of keys.
    pub key_provider: String,
    /// Whether it is a FIPS build.
    pub fips: bool,
}

/// Facts about the process that do not change. The gauges stay while this is held.
#[derive(Debug)]
pub struct Facts(#[expect(dead_code, reason = "held, so that the series stay")] [Gauge; 2]);

impl Facts {
    /// `proxy_build_info` = 1 and `rustls_info` = 1.
    pub fn new(registrar: &Registrar, build: Build<'_>, tls: &TlsInfo) -> Self {
        let build = LabelSet::default()
            .with("date", build.date)
            .with("git_sha", build.git_sha)
            .with("profile", build.profile)
            .with("vendor", "mesh")
            .with("version", build.version);
        let tls = LabelSet::default()
            .with("tls_suites", &tls.suites)
            .with("tls_kx_groups", &tls.kx_groups)
            .with("tls_rand", &tls.rand)
            .with("tls_key_provider", &tls.key_provider)
            .with("tls_fips", tls.fips.to_string());
        let one = |name, help, labels| {
            let gauge = registrar.gauges(name, help).get(&labels);
            gauge.set(1);
            gauge
        };
        Self([
            one("proxy_build_info", "Which build this is.", build),
            one("rustls_info", "What TLS is made of.", tls),
        ])
    }
}
