//! # Series
//!
//! Job: families whose series may have different label names, handles that only add, and the dropping of
//! idle series.
//! May touch: the prometheus data model. Must not touch: what the labels mean. Callers: this crate, and
//! rooms with families of their own.

use parking_lot::Mutex;
use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto,
};
use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Names and values of labels, in the order they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSet(Vec<(Cow<'static, str>, Arc<str>)>);

/// Makes families in one registry.
#[derive(Clone, Debug)]
pub struct Registrar {
    registry: Registry,
    retain_idle: Duration,
}

/// A family: series by label set.
pub struct Family<M: Series>(Arc<Inner<M>>);

/// A count that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// A distribution over fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Distribution>);

/// Upper bounds of buckets, ascending, without infinity.
pub type Buckets = &'static [f64];

/// What a series counts in.
pub trait Series: Clone + Send + Sync + 'static {
    /// What a new series needs to know.
    type Shape: Copy + Send + Sync + 'static;
    /// The kind as the text format names it.
    const KIND: proto::MetricType;
    /// A new series at zero.
    fn start(shape: Self::Shape) -> Self;
    /// Number of handles in the world.
    fn holders(&self) -> usize;
    /// A number that changes with every event.
    fn stamp(&self) -> u64;
    /// Writes the value.
    fn write(&self, metric: &mut proto::Metric);
}

struct Inner<M: Series> {
    name: &'static str,
    desc: Desc,
    shape: M::Shape,
    retain_idle: Duration,
    series: Mutex<HashMap<LabelSet, Entry<M>>>,
    overflow: M,
}

struct Entry<M> {
    series: M,
    stamp: u64,
    changed: Instant,
}

#[derive(Debug)]
struct Distribution {
    bounds: Buckets,
    counts: Box<[AtomicU64]>,
    /// In thousandths, so that it can be added to without a lock.
    sum: AtomicU64,
}

/// Most series of a family. A client that makes up names cannot fill the memory: what comes above counts
/// into one series without labels.
const MAX_SERIES: usize = 10_000;

// === impl LabelSet ===

impl LabelSet {
    /// Adds a label.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl AsRef<str>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds a label.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl AsRef<str>) {
        self.0.push((name.into(), value.as_ref().into()));
    }

    fn pairs(&self) -> Vec<proto::LabelPair> {
        let pair = |(name, value): &(Cow<'static, str>, Arc<str>)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_string());
            pair.set_value(value.to_string());
            pair
        };
        self.0.iter().map(pair).collect()
    }
}

// === impl Registrar ===

impl Registrar {
    /// With a registry of its own.
    pub fn new(retain_idle: Duration) -> Self {
        Self { registry: Registry::new(), retain_idle }
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A family of counters; `name` ends in `_total`.
    pub fn counters(&self, name: &'static str, help: &str) -> Family<Counter> {
        self.family(name, help, ())
    }

    /// A family of gauges.
    pub fn gauges(&self, name: &'static str, help: &str) -> Family<Gauge> {
        self.family(name, help, ())
    }

    /// A family of histograms.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &str,
        buckets: Buckets,
    ) -> Family<Histogram> {
        self.family(name, help, buckets)
    }

    fn family<M: Series>(&self, name: &'static str, help: &str, shape: M::Shape) -> Family<M> {
        let desc = Desc::new(name.into(), help.into(), Vec::new(), HashMap::new())
            .expect("the names and help texts of families are literals of this workspace");
        let inner = Arc::new(Inner {
            name,
            desc,
            shape,
            retain_idle: self.retain_idle,
            series: Mutex::new(HashMap::new()),
            overflow: M::start(shape),
        });
        if let Err(error) = self.registry.register(Box::new(Collect(inner.clone()))) {
            tracing::error!(name, %error, "Metric family is registered twice");
        }
        Family(inner)
    }
}

// === impl Family ===

impl<M: Series> Family<M> {
    /// The series with these labels; made if missing.
    pub fn get(&self, labels: &LabelSet) -> M {
        let mut series = self.0.series.lock();
        if let Some(entry) = series.get(labels) {
            return entry.series.clone();
        }
        if series.len() >= MAX_SERIES {
            let now = Instant::now();
            series.retain(|_, entry| entry.keep(now, self.0.retain_idle));
            if series.len() >= MAX_SERIES {
                return self.0.overflow.clone();
            }
        }
        let new = M::start(self.0.shape);
        let entry = Entry { series: new.clone(), stamp: new.stamp(), changed: Instant::now() };
        series.insert(labels.clone(), entry);
        new
    }

    /// The series without labels.
    pub fn single(&self) -> M {
        self.get(&LabelSet::default())
    }
}

impl<M: Series> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Series> fmt::Debug for Family<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.0.name).finish()
    }
}

impl<M: Series> Entry<M> {
    /// Whether the series stays; notes a change since the last look.
    fn keep(&mut self, now: Instant, retain_idle: Duration) -> bool {
        let stamp = self.series.stamp();
        if stamp != self.stamp || self.series.holders() > 1 {
            self.stamp = stamp;
            self.changed = now;
        }
        now.saturating_duration_since(self.changed) < retain_idle
    }
}

impl<M: Series> Inner<M> {
    fn collect_at(&self, now: Instant) -> proto::MetricFamily {
        let mut family = proto::MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.desc.help.clone());
        family.set_field_type(M::KIND);
        let mut series = self.series.lock();
        series.retain(|_, entry| entry.keep(now, self.retain_idle));
        let metrics = series.iter().map(|(labels, entry)| {
            let mut metric = proto::Metric::from_label(labels.pairs());
            entry.series.write(&mut metric);
            metric
        });
        family.set_metric(metrics.collect());
        family
    }
}

struct Collect<M: Series>(Arc<Inner<M>>);

impl<M: Series> Collector for Collect<M> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        vec![self.0.collect_at(Instant::now())]
    }
}

// === the kinds ===

impl Counter {
    /// Counts one.
    pub fn incr(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Series for Counter {
    type Shape = ();
    const KIND: proto::MetricType = proto::MetricType::COUNTER;

    fn start((): ()) -> Self {
        Self::default()
    }

    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn stamp(&self) -> u64 {
        self.value()
    }

    fn write(&self, metric: &mut proto::Metric) {
        let mut counter = proto::Counter::default();
        counter.set_value(self.value() as f64);
        metric.set_counter(counter);
    }
}

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// The value.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Series for Gauge {
    type Shape = ();
    const KIND: proto::MetricType = proto::MetricType::GAUGE;

    fn start((): ()) -> Self {
        Self::default()
    }

    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn stamp(&self) -> u64 {
        self.value().cast_unsigned()
    }

    fn write(&self, metric: &mut proto::Metric) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(self.value() as f64);
        metric.set_gauge(gauge);
    }
}

impl Histogram {
    /// Adds a sample, in the unit of the family's name.
    pub fn observe(&self, value: f64) {
        let Distribution { bounds, counts, sum } = &*self.0;
        counts[bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        sum.fetch_add((value * 1000.0) as u64, Relaxed);
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|c| c.load(Relaxed)).sum()
    }
}

impl Series for Histogram {
    type Shape = Buckets;
    const KIND: proto::MetricType = proto::MetricType::HISTOGRAM;

    fn start(bounds: Buckets) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Distribution { bounds, counts, sum: AtomicU64::new(0) }))
    }

    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn stamp(&self) -> u64 {
        self.count()
    }

    fn write(&self, metric: &mut proto::Metric) {
        let mut total = 0;
        let buckets = self.0.bounds.iter().zip(self.0.counts.iter()).map(|(bound, count)| {
            total += count.load(Relaxed);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(total);
            bucket
        });
        let buckets = buckets.collect();
        // The encoder writes the last, infinite bucket from the number of samples.
        total += self.0.counts.last().map_or(0, |count| count.load(Relaxed));
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(total);
        histogram.set_sample_sum(self.0.sum.load(Relaxed) as f64 / 1000.0);
        metric.set_histogram(histogram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETAIN: Duration = Duration::from_secs(600);

    fn labels(value: &str) -> LabelSet {
        LabelSet::default().with("l", value)
    }

    // proves: OBS-1
    #[test]
    fn idle_series_leave_and_held_or_busy_ones_stay() {
        let family = Registrar::new(RETAIN).counters("a_total", "help");
        let held = family.get(&labels("held"));
        family.get(&labels("idle")).incr();
        family.get(&labels("busy")).incr();
        let start = Instant::now();
        let count = |at| family.0.collect_at(at).get_metric().len();
        assert_eq!(count(start), 3);
        family.get(&labels("busy")).incr();
        assert_eq!(count(start + RETAIN - Duration::from_secs(1)), 3);
        assert_eq!(count(start + RETAIN + Duration::from_secs(1)), 2, "idle is gone");
        drop(held);
        assert_eq!(count(start + RETAIN * 3), 0);
    }

    // proves: OBS-1
    #[test]
    fn a_flood_of_label_sets_is_bounded() {
        let family = Registrar::new(RETAIN).counters("a_total", "help");
        for i in 0..MAX_SERIES + 50 {
            family.get(&labels(&i.to_string())).incr();
        }
        assert_eq!(family.0.series.lock().len(), MAX_SERIES);
        assert_eq!(family.0.overflow.value(), 50);
    }

    #[test]
    fn samples_fall_into_their_buckets() {
        let histogram = Histogram::start(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        let mut metric = proto::Metric::default();
        histogram.write(&mut metric);
        let written = metric.get_histogram();
        let counts: Vec<_> = written.get_bucket().iter().map(|b| b.cumulative_count()).collect();
        assert_eq!((counts, written.get_sample_sum()), (vec![2, 3], 12.0));
        assert_eq!(written.get_sample_count(), 4);
    }
}
