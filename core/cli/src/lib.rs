//! # The command line
//!
//! Job: one file a verb. Parses arguments, asks the rooms below to do the work, prints manifests to
//! stdout and notes to stderr. Under another name (`mesh-proxy`, `mesh-controller`, ...) it is that program.
//! May touch: everything below it. Must not touch: rules and protocols, which live in their rooms.
//! Callers: `main.rs`, tests.

pub mod args;
pub mod ca;
pub mod check;
pub mod cluster;
mod completion;
pub mod demo;
pub mod inject;
pub mod install;
pub mod install_cni;
mod listing;
pub mod mc;
pub mod output;
mod programs;
mod proxy_flags;
pub mod prune;
pub mod sandbox;
pub mod uninstall;
pub mod upgrade;
pub mod values;
mod version;

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::Parser;

use crate::args::{Cli, Command};

/// Runs the program named by `argv[0]` with the arguments that follow.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    if let Some(code) = programs::run(&argv) {
        return code;
    }
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    output::log_level(cli.globals.verbose);
    let globals = &cli.globals;
    match cli.command {
        Command::Ca(args) => ca::run(globals, args),
        Command::Check(args) => check::run(globals, args),
        Command::Completion(args) => completion::run(args),
        Command::Demo(args) => demo::run(globals, args),
        Command::Inject(args) => inject::run(globals, args),
        Command::Install(args) => install::run(globals, args),
        Command::InstallCni(args) => install_cni::run(&args),
        Command::Multicluster(args) => mc::run(globals, args),
        Command::Prune(args) => prune::run(globals, &args),
        Command::Sandbox(args) => sandbox::run(globals, args),
        Command::Uninject(args) => inject::uninject(args),
        Command::Uninstall(args) => uninstall::run(globals, &args),
        Command::Upgrade(args) => upgrade::run(globals, args),
        Command::Version(args) => version::run(globals, args),
    }
}

/// Runs a verb's asynchronous part on a small runtime.
///
/// # Errors
/// The verb's own, or that the runtime could not be started.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| anyhow::anyhow!("cannot start the asynchronous runtime: {e}"))?;
    let done = runtime.block_on(work);
    // A look-up that still hangs must not keep the command from ending.
    runtime.shutdown_background();
    done
}

/// Usage errors exit with 1, as Linkerd's commands do; help and version with 0.
fn usage(error: &clap::Error) -> ExitCode {
    let failed = error.use_stderr();
    // A closed stdout or stderr leaves nobody to tell.
    let _ = error.print();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
