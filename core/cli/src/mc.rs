//! # `mesh multicluster`
//!
//! Job: the verbs of the multicluster extension: which there are, and who runs them.
//! May touch: nothing itself. Callers: `lib.rs`.

mod check;
mod gateways;
mod install;
mod link;
mod link_gen;
mod remote_access;
mod uninstall;
mod unlink;

use crate::{args::Globals, output};
use clap::Subcommand;
use std::process::ExitCode;

/// Arguments of `mesh multicluster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what lets another cluster mirror from this one
    Allow(remote_access::Args),
    /// Check the extension and its Links
    Check(check::Args),
    /// Show the gateways of linked clusters and whether they answer
    Gateways(gateways::Args),
    /// Print the extension's manifests
    Install(Box<install::Args>),
    /// Print all that another cluster needs to mirror from this one
    Link(link_gen::Args),
    /// Print the credentials and the Link alone
    #[command(name = "link-gen")]
    LinkGen(link_gen::Args),
    /// Print what removes the extension
    Uninstall(uninstall::Args),
    /// Print what removes a Link and its mirrors
    Unlink(unlink::Args),
}

/// Runs the verb; exit code 1 on any error.
pub fn run(globals: &Globals, args: Args) -> ExitCode {
    let work = async {
        let done = match args.verb {
            Verb::Check(args) => return check::run(globals, args).await,
            Verb::Install(args) => install::run(globals, *args).await,
            Verb::Allow(args) => remote_access::run(globals, args).await,
            Verb::Gateways(args) => gateways::run(globals, args).await,
            Verb::Link(args) => link::run(globals, args).await,
            Verb::LinkGen(args) => link_gen::run(globals, args).await,
            Verb::Uninstall(args) => uninstall::run(globals, args).await,
            Verb::Unlink(args) => unlink::run(globals, args).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    };
    crate::block_on(work).unwrap_or_else(|error| output::fail(&error))
}
