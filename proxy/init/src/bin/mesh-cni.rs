//! # mesh-cni
//!
//! Job: the thin binary: exit code. Callers: the container runtime, the DaemonSet that installs the plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_init::run_on_node(std::env::args_os().collect())
}
