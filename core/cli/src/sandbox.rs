//! # `mesh sandbox`
//!
//! Job: clusters on this machine. Callers: `lib.rs`.

use std::process::ExitCode;

use crate::args::Globals;

/// Arguments of `mesh sandbox`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_globals: &Globals, _args: Args) -> ExitCode {
    crate::output::fail(&anyhow::anyhow!("this verb is not in this build"))
}
