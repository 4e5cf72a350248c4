//! # Redirecting a Pod's traffic
//!
//! Job: the programs that put a proxy in a Pod's way. In a Pod: `linkerd2-proxy-init` sets the redirect rules,
//! `linkerd2-network-validator` proves that somebody has. On a node: `linkerd-cni` is the plugin that sets
//! them for the container runtime, `install-cni` brings the plugin there.
//! May touch: the environment, through its settings tables. Must not touch: traffic.
//! Callers: `main.rs`, `bin/mesh-cni.rs`, `core/cli`.

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

/// Runs a Pod's program: the one that the first word of `args` names, or the second.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let (program, args) = choose(&args, InPod::of, InPod::Setup);
    answer(args, |pod, args| match program {
        InPod::Setup => setup::run(pod, args),
        InPod::Validator => validator::run(pod, args),
    })
}

/// Runs a node's program, likewise. It is a function of its own, and an executable of its own, because the
/// client of the API server would double the size of what every Pod's image holds.
pub fn run_on_node(args: Vec<OsString>) -> ExitCode {
    match choose(&args, OnNode::of, OnNode::Plugin) {
        (OnNode::Plugin, _) => cni::run(),
        (OnNode::Installer, args) => answer(args, |_, _| install::run()),
    }
}

/// Help, a run, and what to tell of its end.
fn answer(
    args: &[OsString],
    run: impl FnOnce(&PodContext, &[OsString]) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    if args.iter().any(|a| matches!(a.to_str(), Some("-h" | "-help" | "--help"))) {
        print(&page("mesh-init", tables()));
        return ExitCode::SUCCESS;
    }
    let pod = match PodContext::from_lookup(env) {
        Ok(pod) => pod,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    match run(&pod, args) {
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

/// The programs of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InPod {
    Setup,
    Validator,
}

/// The programs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnNode {
    Plugin,
    Installer,
}

impl InPod {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "linkerd2-proxy-init" | "proxy-init" => Self::Setup,
            "linkerd2-network-validator" | "network-validator" => Self::Validator,
            _ => return None,
        })
    }
}

impl OnNode {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "linkerd-cni" => Self::Plugin,
            "install-cni" | "linkerd2-cni-install" => Self::Installer,
            _ => return None,
        })
    }
}

/// The program and its own arguments.
fn choose<T>(args: &[OsString], of: impl Fn(&str) -> Option<T>, otherwise: T) -> (T, &[OsString]) {
    let named = |word: Option<&OsString>| of(Path::new(word?).file_name()?.to_str()?);
    if let Some(program) = named(args.first()) {
        return (program, &args[1..]);
    }
    match named(args.get(1)) {
        Some(program) => (program, &args[2..]),
        None => (otherwise, args.get(1..).unwrap_or_default()),
    }
}

/// Text on stdout. A closed stdout leaves nobody to tell.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "mesh-init: {error}");
    ExitCode::from(code)
}
