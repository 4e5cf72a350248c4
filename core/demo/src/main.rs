//! # The `mesh-demo` binary
//!
//! Job: hand the arguments to the library. May touch: the process arguments. Callers: images.

fn main() -> std::process::ExitCode {
    mesh_demo::program::run(std::env::args_os().collect())
}
