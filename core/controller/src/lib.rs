//! # The control plane's program
//!
//! Job: one subcommand a Deployment; flags and environment in, a running service out.
//! May touch: arguments and environment through the settings tables, signals, stdout.
//! Must not touch: what a service does. Callers: `main.rs`, the multi-call binary of `cli`.

mod args;
mod destination;
mod identity;
mod injector;
mod own;
mod process;
mod watches;

use args::Line;
use std::{ffi::OsString, process::ExitCode};

/// A Deployment's program: its name and how it runs.
struct Subcommand {
    name: &'static str,
    about: &'static str,
    run: fn(&Line) -> anyhow::Result<ExitCode>,
}

const SUBCOMMANDS: [Subcommand; 3] = [
    Subcommand { name: "identity", about: "signs workload certificates", run: identity::run },
    Subcommand {
        name: "destination",
        about: "discovery and policy in one process",
        run: destination::run,
    },
    Subcommand { name: "proxy-injector", about: "the admission webhook", run: injector::run },
];

/// Runs the subcommand in `argv[1]` until a signal or a failure. Exit codes: 0 after a drain, 1 on
/// failure, 2 for a command line that cannot be understood.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    let name = argv.get(1).and_then(|a| a.to_str()).unwrap_or_default();
    let Some(subcommand) = SUBCOMMANDS.iter().find(|s| s.name == name) else {
        if matches!(name, "-h" | "-help" | "--help" | "help") {
            args::print(&usage());
            return ExitCode::SUCCESS;
        }
        args::complain(&format!("unknown subcommand `{name}`\n{}", usage()));
        return ExitCode::from(args::EXIT_USAGE);
    };
    let line = Line { name: subcommand.name, about: subcommand.about, args: &argv[2..] };
    match (subcommand.run)(&line) {
        Ok(code) => code,
        Err(error) => {
            args::complain(&format!("{name}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let rows = SUBCOMMANDS.iter().map(|s| format!("  {:<16} {}\n", s.name, s.about));
    format!("usage: mesh-controller <subcommand> [flags]\n{}", rows.collect::<String>())
}
