//! # Supervised tasks
//!
//! Job: a panic stays in its task: it is logged once with its place and counted under the task's name; what
//! must live on starts again, with backoff.
//! May touch: the panic hook of the process. Must not touch: what tasks do. Callers: binaries install the
//! hook; whoever spawns a task that others rely on.
//!
//! A connection that panics is gone and nothing else: the runtime catches the panic. Here it gets a name.

use parking_lot::Mutex;
use prometheus::{
    Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    pin::Pin,
    sync::Once,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Pause before a task that panicked starts again; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// After so long without a panic the pauses start over.
const STEADY: Duration = Duration::from_secs(60);
/// Longest text of a panic that is logged.
const TEXT: usize = 1000;

/// Panics by task. The hook belongs to the process, and so does this.
static PANICS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The task that this thread works on.
    static CURRENT: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// From now on panics of this process are counted, and logged instead of printed. The first call counts.
pub fn watch_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let task = current();
            *PANICS.lock().entry(task.clone()).or_default() += 1;
            if tracing::enabled!(tracing::Level::ERROR) {
                tell(&task, info);
            } else {
                print(info);
            }
        }));
    });
}

fn tell(task: &str, info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let text: String = info.payload_as_str().unwrap_or_default().chars().take(TEXT).collect();
    tracing::error!(task, place, "A task panicked: {text}");
}

/// The name of the task at work, else that of the thread without its number.
fn current() -> String {
    if let Some(name) = CURRENT.get() {
        return name.to_owned();
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

/// Panics so far under this name.
pub fn panics(task: &str) -> u64 {
    PANICS.lock().get(task).copied().unwrap_or_default()
}

/// Shows the panics of this process as a counter with the label `task`.
///
/// # Errors
/// When the name cannot be used or is taken.
pub fn register_panics(registry: &Registry, name: &str) -> Result<(), prometheus::Error> {
    let help = "Panics by task; each ended its task alone";
    let family = prometheus::CounterVec::new(Opts::new(name, help), &["task"])?;
    registry.register(Box::new(PanicCollector(family)))
}

struct PanicCollector(prometheus::CounterVec);

impl Collector for PanicCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (task, count) in &*PANICS.lock() {
            let counter = self.0.with_label_values(&[task]);
            let more = *count as f64 - counter.get();
            counter.inc_by(more.max(0.0));
        }
        self.0.collect()
    }
}

// === tasks ===

/// A future that bears a task's name while it works.
pub struct Named<F> {
    name: &'static str,
    /// Boxed: what a task is made of is moved on its way into the runtime.
    future: Pin<Box<F>>,
}

/// Gives a future a name for the case that it panics.
pub fn named<F: Future>(name: &'static str, future: F) -> Named<F> {
    Named { name, future: Box::pin(future) }
}

/// Spawns a task under a name.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(named(name, future))
}

/// A task ended by a panic, which the hook has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} panicked")]
pub struct Panicked(pub &'static str);

/// Runs a future; its panic becomes an error. The caller answers for what the future leaves behind half
/// changed.
///
/// # Errors
/// When it panics.
pub async fn caught<F: Future>(name: &'static str, future: F) -> Result<F::Output, Panicked> {
    let mut future = named(name, future);
    poll_fn(move |cx| {
        let poll = AssertUnwindSafe(|| Pin::new(&mut future).poll(cx));
        catch_unwind(poll).map_or(Poll::Ready(Err(Panicked(name))), |poll| poll.map(Ok))
    })
    .await
}

/// Runs what `make` makes until it ends by itself; made anew after each panic, at once and then after
/// pauses of 100 ms to 10 s.
pub async fn keep<F: Future>(name: &'static str, mut make: impl FnMut() -> F) -> F::Output {
    let mut pause = FIRST;
    loop {
        let start = Instant::now();
        // Making it may panic as well.
        let Ok(output) = caught(name, async { make().await }).await else {
            if start.elapsed() >= STEADY {
                pause = FIRST;
            }
            tracing::debug!(task = name, ?pause, "The task starts again");
            sleep(pause).await;
            pause = LONGEST.min(pause * 2);
            continue;
        };
        return output;
    }
}

impl<F: Future> Future for Named<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _at_work = AtWork::on(self.name);
        self.future.as_mut().poll(cx)
    }
}

impl<F> fmt::Debug for Named<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Named").field(&self.name).finish()
    }
}

/// Names the work of this thread until it is dropped, also by a panic.
struct AtWork(Option<&'static str>);

impl AtWork {
    fn on(name: &'static str) -> Self {
        Self(CURRENT.replace(Some(name)))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests;
