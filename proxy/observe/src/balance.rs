//! # Balancers
//!
//! Job: `<prefix>_p2c_*`, `_queue_*`, `_endpoints` of one kind of balancer.
//! May touch: what a balancer tells its meter. Must not touch: its choices.
//! Callers: outbound, and the wiring for clients of the control plane.

use crate::series::{
    Buckets, Counter, Family, Gauge, Histogram, LabelSet, Reading, Registrar, Render, Series,
    header,
};
use crate::stack::{StackLayer, StackPart};
use indexmap::IndexMap;
use mesh_stack::meter::{Count, Endpoints, Meter, Update};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The families of balancers of one kind.
#[derive(Clone, Debug)]
pub struct BalancerMetrics {
    endpoints: Arc<Live>,
    updates: Family<Counter>,
    length: Family<Gauge>,
    requests: Family<Counter>,
    latency: Family<Histogram>,
    opened: Family<Counter>,
    shut: Family<Counter>,
    open_time: Family<Reading>,
    shut_time: Family<Reading>,
    timeout: Family<Reading>,
    /// Balancers in the way of applications count as parts of the outbound stack.
    parts: Option<StackLayer>,
}

/// Names of the families of one kind.
#[derive(Clone, Copy, Debug)]
pub struct BalancerNames {
    pub(crate) p2c_endpoints: &'static str,
    pub(crate) endpoints: &'static str,
    pub(crate) updates: &'static str,
    pub(crate) length: &'static str,
    pub(crate) requests: &'static str,
    pub(crate) latency: &'static str,
    pub(crate) opened: &'static str,
    pub(crate) shut: &'static str,
    pub(crate) open_time: &'static str,
    pub(crate) shut_time: &'static str,
    pub(crate) timeout: &'static str,
}

/// The names with a prefix.
macro_rules! names {
    ($prefix:literal) => {
        BalancerNames {
            p2c_endpoints: concat!($prefix, "_balancer_p2c_endpoints"),
            endpoints: concat!($prefix, "_balancer_endpoints"),
            updates: concat!($prefix, "_balancer_p2c_updates_total"),
            length: concat!($prefix, "_balancer_queue_length"),
            requests: concat!($prefix, "_balancer_queue_requests_total"),
            latency: concat!($prefix, "_balancer_queue_latency_seconds"),
            opened: concat!($prefix, "_balancer_queue_gate_open_total"),
            shut: concat!($prefix, "_balancer_queue_gate_shut_total"),
            open_time: concat!($prefix, "_balancer_queue_gate_open_time_seconds"),
            shut_time: concat!($prefix, "_balancer_queue_gate_shut_time_seconds"),
            timeout: concat!($prefix, "_balancer_queue_gate_timeout_seconds"),
        }
    };
}

impl BalancerNames {
    /// Requests of applications.
    pub const HTTP: Self = names!("outbound_http");
    /// Connections of applications.
    pub const TCP: Self = names!("outbound_tcp");
    /// Connections of applications that bring TLS of their own.
    pub const TLS: Self = names!("outbound_tls");
    /// The identity service.
    pub const IDENTITY: Self = names!("control_identity");
    /// The destination service.
    pub const DESTINATION: Self = names!("control_destination");
    /// The policy service.
    pub const POLICY: Self = names!("control_policy");
    /// The collector of spans.
    pub const OPENTELEMETRY: Self = names!("opentelemetry");
}

/// Balancers that are asked for their endpoints at scrape. What they say of different workers is added up.
struct Live {
    names: BalancerNames,
    balancers: Mutex<IndexMap<LabelSet, Vec<Weak<dyn Endpoints>>>>,
}

/// Counts for the balancers with equal labels; several (one a worker) may count into the same series.
#[derive(Debug)]
pub struct BalancerMeter {
    families: BalancerMetrics,
    labels: LabelSet,
    updates: [Counter; 3],
    length: Gauge,
    requests: Counter,
    latency: Histogram,
    opened: Counter,
    shut: Counter,
    open_time: Reading,
    shut_time: Reading,
    /// Held, so that the series stay.
    _timeout: Reading,
    _part: Option<StackPart>,
}

const LATENCY: Buckets = &[0.0005, 0.005, 0.05, 0.5, 1.0, 3.0];
const UPDATES: [(Update, &str); 3] =
    [(Update::Reset, "Reset"), (Update::Add, "Add"), (Update::Remove, "Remove")];

impl BalancerMetrics {
    /// The families with these names.
    pub fn new(registrar: &Registrar, names: BalancerNames, parts: Option<StackLayer>) -> Self {
        let endpoints = Arc::new(Live { names, balancers: Mutex::default() });
        registrar.add(endpoints.clone());
        Self {
            endpoints,
            parts,
            updates: registrar.counters(names.updates, "Changes that discovery made to a set."),
            length: registrar.gauges(names.length, "Requests that wait for an endpoint."),
            requests: registrar.counters(names.requests, "Requests that asked for an endpoint."),
            latency: registrar.histograms(
                names.latency,
                "Time that requests waited for an endpoint, seconds.",
                LATENCY,
            ),
            opened: registrar.counters(names.opened, "Returns from fail-fast."),
            shut: registrar.counters(names.shut, "Times that fail-fast began."),
            open_time: registrar.readings(names.open_time, "When fail-fast ended, Unix seconds."),
            shut_time: registrar.readings(names.shut_time, "When fail-fast began, Unix seconds."),
            timeout: registrar
                .readings(names.timeout, "Time without an endpoint before fail-fast, seconds."),
        }
    }

    /// A meter of balancers with these labels, whose gates shut after `failfast`.
    pub fn meter(&self, labels: LabelSet, failfast: Duration) -> BalancerMeter {
        let timeout = self.timeout.get(&labels);
        timeout.set(failfast.as_secs_f64());
        BalancerMeter {
            updates: UPDATES.map(|(_, op)| self.updates.get(&labels.first("op", op))),
            length: self.length.get(&labels),
            requests: self.requests.get(&labels),
            latency: self.latency.get(&labels),
            opened: self.opened.get(&labels),
            shut: self.shut.get(&labels),
            open_time: self.open_time.get(&labels),
            shut_time: self.shut_time.get(&labels),
            _timeout: timeout,
            _part: self.parts.as_ref().map(StackLayer::part),
            families: self.clone(),
            labels,
        }
    }
}

impl Meter for BalancerMeter {
    fn passed(&self) {
        self.requests.incr();
        self.latency.observe(0.0);
    }

    fn queued(&self) {
        self.requests.incr();
        self.length.add(1);
    }

    fn unqueued(&self, waited: Duration) {
        self.length.add(-1);
        self.latency.observe(waited.as_secs_f64());
    }

    fn updated(&self, update: Update) {
        let at = UPDATES.iter().position(|(op, _)| *op == update);
        if let Some(counter) = at.and_then(|at| self.updates.get(at)) {
            counter.incr();
        }
    }

    fn gate(&self, open: bool) {
        let (count, time) = match open {
            true => (&self.opened, &self.open_time),
            false => (&self.shut, &self.shut_time),
        };
        count.incr();
        time.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    fn watch(&self, endpoints: Weak<dyn Endpoints>) {
        self.families.endpoints.add(self.labels.clone(), endpoints);
    }
}

impl Live {
    fn add(&self, labels: LabelSet, balancer: Weak<dyn Endpoints>) {
        let mut balancers = self.balancers.lock();
        let known = balancers.entry(labels).or_default();
        known.retain(|balancer| balancer.strong_count() > 0);
        known.push(balancer);
    }

    /// Those alive. They are counted, and perhaps dropped, outside of the lock.
    fn alive(&self) -> Vec<(LabelSet, Vec<Arc<dyn Endpoints>>)> {
        let mut balancers = self.balancers.lock();
        balancers.retain(|_, known| known.iter().any(|b| b.strong_count() > 0));
        let alive = |known: &Vec<Weak<_>>| known.iter().filter_map(Weak::upgrade).collect();
        balancers.iter().map(|(labels, known)| (labels.clone(), alive(known))).collect()
    }
}

impl Render for Live {
    fn render(&self, _: Instant, out: &mut Vec<u8>) {
        let sum = |balancers: Vec<Arc<dyn Endpoints>>| {
            balancers.iter().map(|b| b.count()).fold(Count::default(), |sum, one| Count {
                ready: sum.ready + one.ready,
                pending: sum.pending + one.pending,
            })
        };
        let counts: Vec<_> = self.alive().into_iter().map(|(l, alive)| (l, sum(alive))).collect();
        if counts.is_empty() {
            return;
        }
        let write = |name, labels: &LabelSet, value: usize, out: &mut Vec<u8>| {
            let gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.write(name, labels.as_str(), out);
        };
        let BalancerNames { p2c_endpoints, endpoints, .. } = self.names;
        header(p2c_endpoints, "Endpoints of a balancer.", Gauge::KIND, out);
        for (labels, count) in &counts {
            write(p2c_endpoints, labels, count.ready + count.pending, out);
        }
        header(endpoints, "Endpoints of a balancer, by state.", Gauge::KIND, out);
        for (labels, count) in &counts {
            for (state, value) in [("ready", count.ready), ("pending", count.pending)] {
                write(endpoints, &labels.first("endpoint_state", state), value, out);
            }
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.names.endpoints).finish()
    }
}
