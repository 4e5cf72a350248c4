//! # `mesh completion`
//!
//! Job: print a completion script. May touch: the command tree. Callers: `lib.rs`.

use std::process::ExitCode;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::{args::Cli, output};

/// Arguments of `mesh completion`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell to print a script for
    shell: Supported,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub(crate) fn run(args: Args) -> ExitCode {
    let shell = match args.shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mesh", &mut script);
    output::exit(output::print(&String::from_utf8_lossy(&script)).map_err(Into::into))
}
