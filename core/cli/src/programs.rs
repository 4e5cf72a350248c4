//! # The programs in this binary
//!
//! Job: one copied file runs a whole cluster: which name is which program, and which container image of the
//! sandbox is which name.
//! May touch: nothing itself. Callers: `lib.rs` (by `argv[0]`), `sandbox` (the table of programs).

use mesh_sandbox::cluster::{Program, Programs};
use std::{ffi::OsString, path::Path, process::ExitCode};

/// (image, container command, `argv[0]`). An image without a command has its main program first.
const IMAGES: [(&str, Option<&str>, &str); 8] = [
    ("controller", None, "mesh-controller"),
    ("proxy", None, "mesh-proxy"),
    ("proxy", Some("/usr/lib/linkerd/linkerd2-proxy-init"), "linkerd2-proxy-init"),
    ("proxy", Some("/usr/lib/linkerd/linkerd2-network-validator"), "linkerd2-network-validator"),
    ("proxy", Some("/usr/lib/linkerd/linkerd-await"), "linkerd-await"),
    ("proxy", Some("/usr/lib/linkerd/linkerd2-proxy"), "linkerd2-proxy"),
    ("proxy", Some("/usr/lib/linkerd/linkerd2-proxy-identity"), "linkerd2-proxy-identity"),
    ("demo", None, "mesh-demo"),
];

/// The table for sandboxes whose Pods run this executable.
pub(crate) fn table(exe: &Path) -> Programs {
    IMAGES
        .iter()
        .map(|(image, command, argv0)| Program {
            image: (*image).to_owned(),
            command: command.map(str::to_owned),
            exe: exe.to_owned(),
            argv0: (*argv0).to_owned(),
        })
        .collect()
}

/// Runs the program that `argv[0]` names, unless that is the command line itself.
pub(crate) fn run(argv: &[OsString]) -> Option<ExitCode> {
    let name = Path::new(argv.first()?).file_name()?.to_str()?;
    let first = argv.get(1).and_then(|a| a.to_str());
    Some(match name {
        // The controller image serves the mirror too, by Linkerd's subcommand.
        "mesh-controller" if first == Some("service-mirror") => {
            mesh_mirror::run(argv[1..].to_vec())
        }
        "mesh-controller" => mesh_controller::run(argv.to_vec()),
        "mesh-mirror" => mesh_mirror::run(argv.to_vec()),
        "mesh-demo" => mesh_demo::program::run(argv.to_vec()),
        "mesh-init" | "linkerd2-proxy-init" | "linkerd2-network-validator" => {
            mesh_init::run(argv.to_vec())
        }
        name if name == "mesh-proxy"
            || name.starts_with("linkerd2-proxy")
            || name == "linkerd-await" =>
        {
            mesh_proxy::run(argv.to_vec())
        }
        _ => return None,
    })
}
