//! # The `mesh` binary
//!
//! Job: hand arguments to the library, which decides by the program's name what it is.
//! May touch: the process arguments. Must not touch: anything else. Callers: people, images, tests.

fn main() -> std::process::ExitCode {
    mesh_cli::run(std::env::args_os().collect())
}
