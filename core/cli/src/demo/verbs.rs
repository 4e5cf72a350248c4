//! # The demo's hands: the verbs of this program
//!
//! Job: runs `mesh ...` as a person would, and gives back what it printed.
//! May touch: child processes. Must not touch: clusters (the verbs do). Callers: `demo`.

use anyhow::{Context, Result, bail};
use std::{ffi::OsStr, path::PathBuf, process::Stdio, time::Duration};
use tokio::process::Command;

/// Longest any verb of the demo may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs verbs of this executable.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    exe: PathBuf,
}

impl Mesh {
    /// # Errors
    /// When the executable's own path cannot be told.
    pub(crate) fn new() -> Result<Self> {
        let exe = std::env::current_exe().context("cannot tell where this program lies")?;
        Ok(Self { exe })
    }

    /// Standard output of a verb that succeeded.
    ///
    /// # Errors
    /// The verb's own words on standard error.
    pub(crate) async fn run<I, S>(&self, args: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(&self.exe);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        let said = format!("{:?}", command.as_std().get_args().collect::<Vec<_>>());
        let output = tokio::time::timeout(LIMIT, command.output())
            .await
            .with_context(|| format!("mesh {said} did not end within {} s", LIMIT.as_secs()))?
            .context("cannot start a verb")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            bail!("mesh {said}: {}\n{}", text(&output.stderr), text(&output.stdout));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
