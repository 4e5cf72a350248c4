//! # `mesh check`
//!
//! Job: choose the categories, run them, run the extensions' checks, say whether all is well.
//! May touch: the cluster, read-only. Callers: `lib.rs`; `mc` uses the engine.

mod dataplane;
pub mod engine;
mod extensions;
mod identity;
mod installed;
mod kubernetes;
mod labels;
mod view;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, bail};

pub(crate) use dataplane::proxy as proxy_of;
pub use engine::{Category, Check, Format, Outcome, Session};

use crate::{args::Globals, block_on, output};
use view::View;
pub(crate) use view::pod_name;

/// Arguments of `mesh check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check whether the cluster is ready for an installation
    #[arg(long)]
    pre: bool,
    /// Check the CustomResourceDefinitions only
    #[arg(long)]
    crds: bool,
    /// Check the data plane too
    #[arg(long)]
    proxy: bool,
    /// Namespace whose proxies are checked; all when not given
    #[arg(short, long)]
    namespace: Option<String>,
    /// Version that the control plane should have instead of this command's
    #[arg(long)]
    expected_version: Option<String>,
    /// Version that this command pretends to have
    #[arg(long, hide = true)]
    cli_version_override: Option<String>,
    /// How to print: table, short or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// How long to retry what may become good
    #[arg(long, default_value = "5m", value_parser = engine::duration)]
    wait: Duration,
}

/// Runs the checks; exit code 1 if one failed.
pub(crate) fn run(globals: &Globals, args: Args) -> ExitCode {
    match block_on(checked(globals, &args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => output::fail(&error),
    }
}

async fn checked(globals: &Globals, args: &Args) -> Result<bool> {
    if args.pre && (args.proxy || args.crds) {
        bail!(
            "Validation error when executing check command: --pre stands alone, without --proxy and --crds"
        );
    }
    let view = Arc::new(View::new(globals.clone(), args));
    let mut session = Session::new(args.output, args.wait);
    let mut go_on = session.run(vec![kubernetes::api(&view), kubernetes::version(&view)]).await;
    if go_on {
        go_on = session.run(categories(&view, args)).await;
    }
    if go_on && !args.pre && !args.crds && !args.proxy {
        session.run(vec![extensions::namespaces(&view)]).await;
    }
    if go_on && !args.pre && !args.crds {
        for report in extensions::run(&view, globals, args).await {
            session.add(report);
        }
    }
    Ok(session.finish())
}

fn categories(view: &Arc<View>, args: &Args) -> Vec<Category> {
    if args.pre {
        return vec![kubernetes::before_installation(view)];
    }
    if args.crds {
        return vec![kubernetes::crds(view)];
    }
    let mut all = vec![
        installed::existence(view),
        installed::config(view),
        identity::credentials(view),
        identity::webhooks(view),
    ];
    if args.proxy {
        all.push(dataplane::anchors(view));
        all.push(dataplane::proxies(view));
    } else {
        all.push(installed::version(view));
    }
    all.push(installed::high_availability(view));
    all.push(installed::unenforced(view));
    all
}

/// A check whose probe is a method of the view.
macro_rules! check {
    ($view:expr, $text:expr, $anchor:literal, $probe:expr) => {{
        let view = std::sync::Arc::clone($view);
        let probe = std::sync::Arc::new($probe);
        $crate::check::Check::new($text, $anchor, move || {
            let (view, probe) = (std::sync::Arc::clone(&view), std::sync::Arc::clone(&probe));
            async move { $crate::check::view::outcome(probe(&view).await) }
        })
    }};
}
pub(crate) use check;
