//! # Runtimes
//!
//! Job: `tokio_rt_*`, summed over the runtimes of the process (one a worker, one for admin).
//! May touch: the counts that a runtime keeps anyway. Callers: the wiring.

use crate::series::{Registrar, Render, header};
use parking_lot::Mutex;
use std::{fmt, io::Write, sync::Arc, time::Instant};
use tokio::runtime::Handle;

/// The runtimes that are shown. Cheap to clone.
#[derive(Clone, Default)]
pub struct RuntimeMetrics(Arc<Runtimes>);

#[derive(Default)]
struct Runtimes(Mutex<Vec<Handle>>);

#[derive(Default)]
struct Sum {
    workers: usize,
    tasks: usize,
    queued: usize,
    parks: u64,
    busy: f64,
}

impl RuntimeMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        let runtimes = Self::default();
        registrar.add(runtimes.0.clone());
        runtimes
    }

    /// Shows this runtime from now on.
    pub fn add(&self, runtime: Handle) {
        self.0.0.lock().push(runtime);
    }
}

impl Runtimes {
    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for runtime in self.0.lock().iter() {
            let metrics = runtime.metrics();
            sum.workers += metrics.num_workers();
            sum.tasks += metrics.num_alive_tasks();
            sum.queued += metrics.global_queue_depth();
            for worker in 0..metrics.num_workers() {
                sum.parks += metrics.worker_park_count(worker);
                sum.busy += metrics.worker_total_busy_duration(worker).as_secs_f64();
            }
        }
        sum
    }
}

impl Render for Runtimes {
    fn render(&self, _: Instant, out: &mut Vec<u8>) {
        let Sum { workers, tasks, queued, parks, busy } = self.sum();
        if workers == 0 {
            return;
        }
        let mut write = |name, help, kind, value: &dyn fmt::Display| {
            header(name, help, kind, out);
            // Writing to memory does not fail.
            let _ = writeln!(out, "{name} {value}");
        };
        write("tokio_rt_workers", "Threads of the runtimes.", "gauge", &workers);
        write("tokio_rt_tasks", "Tasks alive.", "gauge", &tasks);
        write("tokio_rt_global_queue_depth", "Tasks that wait for a thread.", "gauge", &queued);
        write("tokio_rt_park_total", "Times that a thread went to sleep.", "counter", &parks);
        write("tokio_rt_busy_seconds_total", "Time that threads worked.", "counter", &busy);
    }
}

impl fmt::Debug for RuntimeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeMetrics").field("runtimes", &self.0.0.lock().len()).finish()
    }
}
