//! # The suites
//!
//! Job: the list of suites in the order in which they build on each other, and running them with a line each.
//! May touch: nothing itself. Callers: `main`.

mod audit;
mod faults;
mod inject;
mod install;
mod measure;
mod memory;
mod rollout;
mod traffic;
mod uninstall;
mod walk;

use crate::{note, stage::Stage};
use anyhow::{Context, Result, bail};
use std::time::Instant;

type Suite = (&'static str, fn(&Stage<'_>) -> Result<()>);

/// In this order: what a suite installs, the next ones use.
const SUITES: [Suite; 9] = [
    ("install", install::run),
    ("walk", walk::run),
    ("memory", memory::run),
    ("inject", inject::run),
    ("traffic", traffic::run),
    ("rollout", rollout::run),
    ("faults", faults::run),
    ("audit", audit::run),
    ("uninstall", uninstall::run),
];

/// Run only when asked for by their whole name.
const EXTRA: [Suite; 2] = [("measure", measure::run), ("soak", rollout::soak)];

/// Those that the others need.
const BASE: [&str; 2] = ["install", "walk"];

/// Runs the suites whose names contain `filter`, and those that they need unless `only`.
///
/// # Errors
/// With the first that failed.
pub(crate) fn run(stage: &Stage<'_>, filter: Option<&str>, only: bool) -> Result<()> {
    let extra = EXTRA.iter().find(|(name, _)| filter == Some(name));
    let wanted = |name: &str| match extra {
        Some((extra, _)) => name == *extra || name == "memory",
        None => filter.is_none_or(|part| name.contains(part)),
    };
    let suites: Vec<Suite> = SUITES.into_iter().chain(extra.copied()).collect();
    if !suites.iter().any(|(name, _)| wanted(name)) {
        let names: Vec<&str> = SUITES.iter().chain(&EXTRA).map(|(name, _)| *name).collect();
        bail!(
            "no suite is called like `{}`; there are: {}",
            filter.unwrap_or_default(),
            names.join(", ")
        );
    }
    for (name, suite) in suites {
        if !wanted(name) && (only || !BASE.contains(&name)) {
            continue;
        }
        let begun = Instant::now();
        note(&format!("suite {name}"));
        suite(stage).with_context(|| format!("suite {name} failed"))?;
        note(&format!("suite {name}: passed in {:.1} s", begun.elapsed().as_secs_f64()));
    }
    Ok(())
}
