//! # Metrics
//!
//! Job: one registry a component, its text form, and the `process_*` family of the process itself.
//! May touch: `/proc/self`. Must not touch: the global registry of the prometheus crate: several
//! components, even several proxies, may live in one process.
//! Callers: binaries, admin servers.

use crate::procfs::{self, Usage};
use prometheus::{
    Counter, Encoder, Gauge, IntGauge, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The registry's families in the text exposition format. A family that cannot be encoded is left out
/// and logged, so that a scrape never fails as a whole.
pub fn encode(registry: &Registry) -> Vec<u8> {
    let encoder = TextEncoder::new();
    let mut text = Vec::with_capacity(16 * 1024);
    for family in registry.gather() {
        let before = text.len();
        if let Err(error) = encoder.encode(std::slice::from_ref(&family), &mut text) {
            text.truncate(before);
            tracing::debug!(name = family.name(), %error, "Metric family left out");
        }
    }
    text
}

/// Adds the `process_*` family to a registry.
///
/// # Errors
/// When the family is registered already.
pub fn register_process(registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ProcessCollector::new()?))
}

struct ProcessCollector {
    started: Instant,
    clock: Gauge,
    uptime: Counter,
    start: Gauge,
    cpu: Counter,
    virtual_memory: IntGauge,
    resident_memory: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    received: Counter,
    sent: Counter,
}

impl ProcessCollector {
    fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        let int = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help));
        let counter = |name: &str, help: &str| Counter::with_opts(Opts::new(name, help));
        let start = gauge("process_start_time_seconds", "Start of the process, Unix seconds")?;
        let now = unix_seconds();
        start.set(procfs::start_time().unwrap_or(now));
        Ok(Self {
            started: Instant::now(),
            start,
            clock: gauge("process_clock_time_seconds", "Time of this scrape, Unix seconds")?,
            uptime: counter("process_uptime_seconds_total", "Time since the start")?,
            cpu: counter("process_cpu_seconds_total", "User and system CPU time")?,
            virtual_memory: int("process_virtual_memory_bytes", "Virtual memory")?,
            resident_memory: int("process_resident_memory_bytes", "Resident memory")?,
            open_fds: int("process_open_fds", "Open file descriptors")?,
            max_fds: int("process_max_fds", "Limit of open file descriptors")?,
            threads: int("process_threads", "Threads of the process")?,
            received: counter(
                "process_network_receive_bytes_total",
                "Bytes received by the network namespace",
            )?,
            sent: counter(
                "process_network_transmit_bytes_total",
                "Bytes sent by the network namespace",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 11] {
        [
            &self.start,
            &self.clock,
            &self.uptime,
            &self.cpu,
            &self.virtual_memory,
            &self.resident_memory,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.received,
            &self.sent,
        ]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.clock.set(unix_seconds());
        raise(&self.uptime, self.started.elapsed().as_secs_f64());
        let Usage { cpu_seconds, virtual_bytes, resident_bytes, threads } = procfs::usage();
        raise(&self.cpu, cpu_seconds);
        self.virtual_memory.set(virtual_bytes);
        self.resident_memory.set(resident_bytes);
        self.threads.set(threads);
        self.open_fds.set(procfs::open_fds());
        self.max_fds.set(procfs::max_fds());
        let (received, sent) = procfs::network_bytes();
        raise(&self.received, received);
        raise(&self.sent, sent);
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Counters only rise; a reading below the last one (a vanished interface) is skipped.
fn raise(counter: &Counter, to: f64) {
    let by = to - counter.get();
    if by > 0.0 {
        counter.inc_by(by);
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_family_is_complete_and_live() {
        let registry = Registry::new();
        register_process(&registry).unwrap();
        let text = String::from_utf8(encode(&registry)).unwrap();
        for name in [
            "process_start_time_seconds",
            "process_clock_time_seconds",
            "process_uptime_seconds_total",
            "process_cpu_seconds_total",
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_network_receive_bytes_total",
            "process_network_transmit_bytes_total",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
        }
        assert!(!text.contains("process_resident_memory_bytes 0\n"), "{text}");
        assert!(!text.contains("process_open_fds 0\n"), "{text}");
        assert!(register_process(&registry).is_err());
    }
}
