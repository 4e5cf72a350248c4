//! # A cluster from outside
//!
//! Job: brings a whole cluster up as processes and looks at it as a user would: Pods that run, names that resolve,
//! addresses that forward, faults that heal. This executable is also the cluster's processes and the program in
//! its Pods, chosen by the first argument or `argv[0]`.
//! May touch: a folder of its own, a leased range, processes it started. Callers: `cargo test`.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod kit;
mod program;

use std::{path::Path, process::ExitCode};

use mesh_sandbox::cluster;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.first().is_some_and(|a| a == program::NAME) {
        return program::run(&args[1..]);
    }
    tracing_subscriber::fmt()
        .with_env_filter("mesh_sandbox=debug")
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let outcome = match (args.get(1).map(String::as_str), args.get(2)) {
        (Some("run-api"), Some(state)) => cluster::run_api(Path::new(state)),
        (Some("run-node"), Some(state)) => cluster::run_node(Path::new(state)),
        _ => return cases::run(args.get(1).map(String::as_str)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
