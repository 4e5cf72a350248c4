//! # Series
//!
//! Job: families whose series may have different label names, their text, and the dropping of idle
//! series.
//! May touch: memory of its own. Must not touch: what the labels mean. Callers: this crate, and rooms with
//! families of their own.
//!
//! Two costs decide the shape. An event must be one relaxed addition: a caller keeps the handle that
//! [`Family::get`] gave it. A scrape must hold nobody up: a family is locked for a batch of handles at a
//! time, and text is made outside of the lock, straight from label sets that are kept as text.

mod kinds;
mod labels;

pub use self::{
    kinds::{Buckets, Counter, Gauge, Histogram, Reading, Series},
    labels::LabelSet,
};

use indexmap::IndexMap;
use parking_lot::Mutex;
use prometheus::{Encoder, Registry, TextEncoder};
use std::{
    fmt,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

/// Makes families, and writes them. Cheap to clone.
#[derive(Clone)]
pub struct Registrar(Arc<Families>);

struct Families {
    retain_idle: Duration,
    families: Mutex<Vec<Arc<dyn Render>>>,
    foreign: Registry,
}

/// A family: series by label set.
pub struct Family<M: Series>(Arc<Inner<M>>);

struct Inner<M: Series> {
    name: &'static str,
    help: &'static str,
    shape: M::Shape,
    retain_idle: Duration,
    table: Mutex<Table<M>>,
    overflow: M,
}

struct Table<M> {
    series: IndexMap<LabelSet, Entry<M>, ahash::RandomState>,
    /// When idle series were last looked for because the table was full.
    swept: Option<Instant>,
}

struct Entry<M> {
    series: M,
    stamp: u64,
    changed: Instant,
}

/// A family as the exposition sees it.
pub(crate) trait Render: Send + Sync {
    fn render(&self, now: Instant, out: &mut Vec<u8>);
}

/// The two lines above a family's series.
pub(crate) fn header(name: &str, help: &str, kind: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Most series of a family. A client that makes up names cannot fill the memory: what comes above counts
/// into one series without labels.
pub const MAX_SERIES: usize = 10_000;

/// Series that one hold of a family's lock copies: some tens of microseconds.
const BATCH: usize = 256;

/// A full family is searched for idle series no more often than this.
const SWEEP: Duration = Duration::from_secs(1);

// === impl Registrar ===

impl Registrar {
    /// Without families. Series idle for `retain_idle` are dropped at scrape.
    pub fn new(retain_idle: Duration) -> Self {
        let (families, foreign) = (Mutex::default(), Registry::new());
        Self(Arc::new(Families { retain_idle, families, foreign }))
    }

    /// For collectors that are no families of ours, such as the process's own.
    pub fn foreign(&self) -> &Registry {
        &self.0.foreign
    }

    /// A family of counters; `name` ends in `_total`.
    pub fn counters(&self, name: &'static str, help: &'static str) -> Family<Counter> {
        self.family(name, help, ())
    }

    /// A family of whole numbers that rise and fall.
    pub fn gauges(&self, name: &'static str, help: &'static str) -> Family<Gauge> {
        self.family(name, help, ())
    }

    /// A family of readings with fractions, such as times.
    pub fn readings(&self, name: &'static str, help: &'static str) -> Family<Reading> {
        self.family(name, help, ())
    }

    /// A family of histograms.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        buckets: Buckets,
    ) -> Family<Histogram> {
        self.family(name, help, buckets)
    }

    /// All families in the text format, in the order in which they were made. Takes as long as there are
    /// series (see the crate's `scrape` test): not for a thread that has other things to do.
    pub fn text(&self) -> Vec<u8> {
        self.text_at(Instant::now())
    }

    fn text_at(&self, now: Instant) -> Vec<u8> {
        let families = self.0.families.lock().clone();
        let mut out = Vec::with_capacity(64 * 1024);
        families.iter().for_each(|family| family.render(now, &mut out));
        let encoder = TextEncoder::new();
        for family in self.0.foreign.gather() {
            let before = out.len();
            if let Err(error) = encoder.encode(std::slice::from_ref(&family), &mut out) {
                out.truncate(before);
                tracing::debug!(name = family.name(), %error, "Metric family left out");
            }
        }
        out.extend_from_slice(b"# EOF\n");
        out
    }

    fn family<M: Series>(
        &self,
        name: &'static str,
        help: &'static str,
        shape: M::Shape,
    ) -> Family<M> {
        let inner = Arc::new(Inner {
            name,
            help,
            shape,
            retain_idle: self.0.retain_idle,
            table: Mutex::new(Table { series: IndexMap::default(), swept: None }),
            overflow: M::start(shape),
        });
        self.add(inner.clone());
        Family(inner)
    }

    /// A family that is none of the usual kinds.
    pub(crate) fn add(&self, family: Arc<dyn Render>) {
        self.0.families.lock().push(family);
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("families", &self.0.families.lock().len()).finish()
    }
}

// === impl Family ===

impl<M: Series> Family<M> {
    /// The series with these labels; made if missing.
    pub fn get(&self, labels: &LabelSet) -> M {
        let inner = &*self.0;
        let mut table = inner.table.lock();
        if let Some(entry) = table.series.get(labels) {
            return entry.series.clone();
        }
        if table.series.len() >= MAX_SERIES && !table.sweep(Instant::now(), inner.retain_idle) {
            return inner.overflow.clone();
        }
        let new = M::start(inner.shape);
        let entry = Entry { series: new.clone(), stamp: new.stamp(), changed: Instant::now() };
        table.series.insert(labels.clone(), entry);
        new
    }

    /// The series without labels.
    pub fn single(&self) -> M {
        self.get(&LabelSet::default())
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.0.table.lock().series.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

impl<M: Series> Table<M> {
    /// Makes room in a full table; false if there is none. A flood of new names does not make every one of
    /// them search the table.
    fn sweep(&mut self, now: Instant, retain_idle: Duration) -> bool {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        self.series.retain(|_, entry| entry.keep(now, retain_idle));
        self.series.len() < MAX_SERIES
    }
}

impl<M: Series> Inner<M> {
    /// Copies the handles of the next batch; false when there are no more.
    fn batch(&self, now: Instant, at: &mut usize, batch: &mut Vec<(LabelSet, M)>) -> bool {
        let mut table = self.table.lock();
        for _ in 0..BATCH {
            let Some((labels, entry)) = table.series.get_index_mut(*at) else { return false };
            if entry.keep(now, self.retain_idle) {
                batch.push((labels.clone(), entry.series.clone()));
                *at += 1;
            } else {
                // The last one takes its place, and is next.
                table.series.swap_remove_index(*at);
            }
        }
        true
    }
}

impl<M: Series> Render for Inner<M> {
    fn render(&self, now: Instant, out: &mut Vec<u8>) {
        let (mut at, mut batch, mut more) = (0, Vec::new(), true);
        let mut headed = false;
        let mut write = |labels: &LabelSet, series: &M| {
            if !std::mem::replace(&mut headed, true) {
                header(self.name, self.help, M::KIND, out);
            }
            series.write(self.name, labels.as_str(), out);
        };
        while more {
            more = self.batch(now, &mut at, &mut batch);
            batch.drain(..).for_each(|(labels, series)| write(&labels, &series));
        }
        if self.overflow.stamp() != 0 {
            write(&LabelSet::default(), &self.overflow);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
