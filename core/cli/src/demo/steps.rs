//! # Steps of the demo
//!
//! Job: runs a step, shows it while it runs and when it ended, keeps name, result and time for the
//! table. On a terminal a line moves while waiting; elsewhere there are plain lines only.
//! May touch: stderr. Must not touch: clusters. Callers: `demo`.

use crate::output;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// What has been done so far.
pub(crate) struct Steps {
    done: Vec<Step>,
    terminal: bool,
}

/// A step that has ended well.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) result: String,
    pub(crate) took: Duration,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { done: Vec::new(), terminal: std::io::stderr().is_terminal() }
    }

    /// Runs one step; its result is a short text for the table.
    ///
    /// # Errors
    /// The step's own, under the step's name.
    pub(crate) async fn run<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<(T, String)>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let bar = self.bar(name);
        let ended = work.await;
        bar.finish_and_clear();
        let took = begun.elapsed();
        let (value, result) =
            ended.with_context(|| format!("step `{name}` failed after {} ms", took.as_millis()))?;
        output::note(format!("{:>7} ms  {name}: {result}", took.as_millis()));
        self.done.push(Step { name: name.to_owned(), result, took });
        Ok(value)
    }

    /// All steps, in order.
    pub(crate) fn done(&self) -> &[Step] {
        &self.done
    }

    fn bar(&self, name: &str) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(name.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>5}  {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}
