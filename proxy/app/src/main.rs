//! # mesh-proxy
//!
//! Job: the thin binary: allocator and exit code. Callers: containers.

use std::process::ExitCode;

/// Measured: less CPU for a little memory.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    mesh_proxy::run(std::env::args_os().collect())
}
