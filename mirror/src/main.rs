//! # The `mesh-mirror` binary
//!
//! Job: hand the arguments to the library. May touch: the process arguments. Callers: images, tests.

fn main() -> std::process::ExitCode {
    mesh_mirror::run(std::env::args_os().collect())
}
