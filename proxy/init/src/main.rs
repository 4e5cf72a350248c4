//! # mesh-init
//!
//! Job: the thin binary: exit code. Callers: containers, the container runtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_init::run(std::env::args_os().collect())
}
