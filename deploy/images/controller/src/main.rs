//! # The controller image's program
//!
//! Job: control plane and mirror in one executable, as charts start both by the one image, with a subcommand
//! first: together they take little more room than the larger one.
//! May touch: the process arguments. Callers: the image `controller`.

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    match argv.get(1).and_then(|word| word.to_str()) {
        Some("service-mirror") => mesh_mirror::run(argv[1..].to_vec()),
        _ => mesh_controller::run(argv),
    }
}
