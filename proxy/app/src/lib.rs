//! # The proxy's binary
//!
//! Job: settings -> configs -> stacks -> run -> drain, and the small programs of the proxy's image.
//! May touch: the environment, through its settings table. Callers: `main.rs`, `core/cli`.

mod admin;
mod configs;
mod control;
mod helpers;
mod proxy;
mod settings;
mod spans;
mod start;
mod worker;

use mesh_process::{
    context::PodContext,
    settings::{BadSettings, Setting, env},
    tasks,
};
use std::{ffi::OsString, path::Path, process::ExitCode};

/// Exit code for settings that cannot be used.
const BAD_CONFIGURATION: u8 = 64;

/// Runs the program that the first word of `args` names (`linkerd2-proxy` and its bootstrap helper are
/// one; `linkerd-await`, `sleep`) until it ends.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let name = args.first().and_then(|arg| Path::new(arg).file_name()).unwrap_or_default();
    let pod = match PodContext::from_lookup(env) {
        Ok(pod) => pod,
        Err(error) => return fail(&error, BAD_CONFIGURATION),
    };
    match name.to_str().unwrap_or_default() {
        "linkerd-await" => helpers::wait_until_ready(&pod, args.get(1..).unwrap_or_default()),
        "sleep" => helpers::sleep(args.get(1..).unwrap_or_default()),
        _ if args.iter().any(|arg| arg == "--version") => helpers::version(),
        _ => run_proxy(&pod),
    }
}

fn run_proxy(pod: &PodContext) -> ExitCode {
    tasks::watch_panics();
    match start::start(pod).and_then(proxy::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit_code())
        }
    }
}

#[expect(clippy::print_stderr, reason = "logging is not set up yet")]
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(code)
}

/// Whether the proxy would take this environment as its settings.
///
/// # Errors
/// With every problem that it would tell before it exits with 64.
pub fn check_settings(
    lookup: impl Fn(&str) -> Option<String>,
    pod: &PodContext,
) -> Result<(), BadSettings> {
    settings::Settings::read(lookup, pod, 1).map(drop)
}

/// The settings of the proxy, by section, for the reference page.
pub fn tables() -> &'static [&'static [Setting]] {
    settings::table::TABLES
}
