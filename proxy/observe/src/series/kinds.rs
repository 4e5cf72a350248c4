//! # Kinds of series
//!
//! Job: what a series counts in, as a handle that only adds, and its lines of text.
//! May touch: atomics. Callers: `series`; everybody who counts.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

/// A count that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// A whole number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// A number with fractions that is set, such as a time.
#[derive(Clone, Debug, Default)]
pub struct Reading(Arc<AtomicU64>);

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
    const KIND: &'static str;
    /// A new series at zero.
    fn start(shape: Self::Shape) -> Self;
    /// Number of handles in the world.
    fn holders(&self) -> usize;
    /// A number that changes with every event; 0 before the first.
    fn stamp(&self) -> u64;
    /// Adds the lines of a series with these labels.
    fn write(&self, name: &str, labels: &str, out: &mut Vec<u8>);
}

#[derive(Debug)]
struct Distribution {
    bounds: Buckets,
    counts: Box<[AtomicU64]>,
    /// In millionths, so that it can be added to without a lock.
    sum: AtomicU64,
}

const MILLION: f64 = 1e6;

fn line(out: &mut Vec<u8>, name: &str, labels: &str, value: impl std::fmt::Display) {
    // Writing to memory does not fail.
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        _ => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

// === impl Counter ===

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
    const KIND: &'static str = "counter";

    fn start((): ()) -> Self {
        Self::default()
    }

    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn stamp(&self) -> u64 {
        self.value()
    }

    fn write(&self, name: &str, labels: &str, out: &mut Vec<u8>) {
        line(out, name, labels, self.value());
    }
}

// === impl Gauge ===

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
    const KIND: &'static str = "gauge";

    fn start((): ()) -> Self {
        Self::default()
    }

    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn stamp(&self) -> u64 {
        self.value().cast_unsigned()
    }

    fn write(&self, name: &str, labels: &str, out: &mut Vec<u8>) {
        line(out, name, labels, self.value());
    }
}

// === impl Reading ===

impl Reading {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// The value.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

impl Series for Reading {
    type Shape = ();
    const KIND: &'static str = "gauge";

    fn start((): ()) -> Self {
        Self::default()
    }

    fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn stamp(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn write(&self, name: &str, labels: &str, out: &mut Vec<u8>) {
        line(out, name, labels, self.value());
    }
}

// === impl Histogram ===

impl Histogram {
    /// Adds a sample, in the unit of the family's name.
    pub fn observe(&self, value: f64) {
        let Distribution { bounds, counts, sum } = &*self.0;
        counts[bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        sum.fetch_add((value * MILLION) as u64, Relaxed);
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|c| c.load(Relaxed)).sum()
    }
}

impl Series for Histogram {
    type Shape = Buckets;
    const KIND: &'static str = "histogram";

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

    fn write(&self, name: &str, labels: &str, out: &mut Vec<u8>) {
        let comma = if labels.is_empty() { "" } else { "," };
        // Linkerd's families in milliseconds are the older ones: whole bounds are written without `.0`
        // there, and with it in the others.
        let whole = name.ends_with("_ms");
        let mut total = 0;
        let mut counts = self.0.counts.iter().map(|count| count.load(Relaxed));
        for (bound, count) in self.0.bounds.iter().zip(&mut counts) {
            total += count;
            let _ = match whole {
                true => writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}"),
                false => writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound:?}\"}} {total}"),
            };
        }
        total += counts.next().unwrap_or_default();
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        let suffixed = |suffix| match labels {
            "" => format!("{name}{suffix}"),
            _ => format!("{name}{suffix}{{{labels}}}"),
        };
        let _ = writeln!(out, "{} {}", suffixed("_sum"), self.0.sum.load(Relaxed) as f64 / MILLION);
        let _ = writeln!(out, "{} {total}", suffixed("_count"));
    }
}
