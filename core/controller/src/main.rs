//! # The `mesh-controller` binary
//!
//! Job: hand the arguments to the library. May touch: the process arguments. Callers: images, tests.

fn main() -> std::process::ExitCode {
    mesh_controller::run(std::env::args_os().collect())
}
