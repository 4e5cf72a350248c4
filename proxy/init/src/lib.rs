//! # Redirecting a Pod's traffic
//!
//! Job: the programs that put a proxy in a Pod's way, in one file: `linkerd2-proxy-init` sets the redirect
//! rules, `linkerd2-network-validator` proves that somebody has, `linkerd-cni` is the plugin that does so
//! for the container runtime, `install-cni` brings the plugin to a node.
//! May touch: the environment, through its settings tables. Must not touch: traffic.
//! Callers: `main.rs`, `core/cli`.

mod args;
mod cni;
mod error;
mod install;
mod kubeconfig;
pub mod netlink;
mod nftables;
pub mod rules;
mod setup;
mod validator;

pub use error::InitError;
pub use setup::apply;

use mesh_process::{
    context::PodContext,
    settings::{BadSettings, EXIT_USAGE, Setting, env, page},
};
use std::{ffi::OsString, io::Write, path::Path, process::ExitCode};

/// Runs the program that the first word of `args` names, or the second, if the first is `mesh-init`.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let (program, args) = choose(&args);
    let pod = match PodContext::from_lookup(env) {
        Ok(pod) => pod,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    if args.iter().any(|a| matches!(a.to_str(), Some("-h" | "-help" | "--help"))) {
        print(&help());
        return ExitCode::SUCCESS;
    }
    let ended = match program {
        Program::Setup => setup::run(&pod, args),
        Program::Validator => validator::run(&pod, args),
        Program::Installer => install::run(),
        Program::Plugin => return cni::run(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<validator::Unproven>() => {
            fail(error.as_ref(), validator::NOT_CONFIGURED)
        }
        Err(error) if error.is::<BadSettings>() => fail(error.as_ref(), EXIT_USAGE),
        Err(error) => fail(error.as_ref(), 1),
    }
}

/// The flags, by program, for the reference page.
pub fn tables() -> &'static [(&'static str, &'static [Setting])] {
    &[
        ("linkerd2-proxy-init", args::TABLE),
        ("linkerd2-network-validator", validator::TABLE),
        ("install-cni (variables)", install::TABLE),
    ]
}

/// The programs in this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Setup,
    Validator,
    Plugin,
    Installer,
}

impl Program {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "linkerd2-proxy-init" | "proxy-init" => Self::Setup,
            "linkerd2-network-validator" | "network-validator" => Self::Validator,
            "linkerd-cni" => Self::Plugin,
            "install-cni" | "linkerd2-cni-install" => Self::Installer,
            _ => return None,
        })
    }
}

/// The program and its own arguments.
fn choose(args: &[OsString]) -> (Program, &[OsString]) {
    let named = |word: Option<&OsString>| {
        let name = Path::new(word?).file_name()?.to_str()?;
        Program::of(name)
    };
    if let Some(program) = named(args.first()) {
        return (program, &args[1..]);
    }
    match named(args.get(1)) {
        Some(program) => (program, &args[2..]),
        None => (Program::Setup, args.get(1..).unwrap_or_default()),
    }
}

fn help() -> String {
    page("mesh-init", tables())
}

/// Text on stdout. A closed stdout leaves nobody to tell.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "mesh-init: {error}");
    ExitCode::from(code)
}
