//! # `mesh check`
//!
//! Job: choose the categories, run them, run the extensions' checks, say whether all is well.
//! May touch: the cluster, read-only. Callers: `lib.rs`; `mc` uses the engine.

pub mod engine;

use std::{process::ExitCode, time::Duration};

pub use engine::{Category, Check, Format, Outcome, Session};

use crate::args::Globals;

/// Arguments of `mesh check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check whether the cluster is ready for an installation
    #[arg(long)]
    pre: bool,
    /// How to print: table, short or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// How long to retry what may become good
    #[arg(long, default_value = "5m", value_parser = engine::duration)]
    wait: Duration,
}

/// Runs the checks; exit code 1 if one failed.
pub(crate) fn run(_globals: &Globals, args: Args) -> ExitCode {
    let session = Session::new(args.output, args.wait);
    if session.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
