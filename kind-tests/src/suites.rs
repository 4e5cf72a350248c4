//! # The suites
//!
//! Job: the list of suites in the order in which they build on each other, and running them with a line each.
//! May touch: nothing itself. Callers: `main`.

mod audit;
mod cni;
mod faults;
mod inject;
mod install;
mod measure;
mod memory;
mod rbac;
mod rights;
mod rollout;
mod traffic;
mod uninstall;
mod upgrade;
mod walk;

use crate::{note, run, stage::Stage};
use anyhow::{Result, bail, ensure};
use std::time::Instant;

/// A name and what it does.
pub(crate) type Suite = (&'static str, fn(&Stage<'_>) -> Result<()>);

/// In this order: what a suite installs, the next ones use.
const SUITES: [Suite; 12] = [
    ("install", install::run),
    ("walk", walk::run),
    ("memory", memory::run),
    ("inject", inject::run),
    ("traffic", traffic::run),
    ("rollout", rollout::run),
    ("faults", faults::run),
    ("upgrade", upgrade::run),
    ("cni", cni::run),
    ("audit", audit::run),
    ("rbac", rbac::run),
    ("uninstall", uninstall::run),
];

/// Run only when asked for by their whole name.
const EXTRA: [Suite; 2] = [("measure", measure::run), ("soak", rollout::soak)];

/// Those that the others need.
const BASE: [&str; 2] = ["install", "walk"];

/// The suites whose names contain `filter`, and those that they need unless `only`.
///
/// # Errors
/// When there is none.
pub(crate) fn choose(filter: Option<&str>, only: bool) -> Result<Vec<Suite>> {
    let extra = EXTRA.iter().find(|(name, _)| filter == Some(name));
    let wanted = |name: &str| match extra {
        Some((extra, _)) => name == *extra || name == "memory",
        None => filter.is_none_or(|part| name.contains(part)),
    };
    let known: Vec<Suite> = SUITES.into_iter().chain(extra.copied()).collect();
    if !known.iter().any(|(name, _)| wanted(name)) {
        let names: Vec<&str> = SUITES.iter().chain(&EXTRA).map(|(name, _)| *name).collect();
        let filter = filter.unwrap_or_default();
        bail!("no suite is called like `{filter}`; there are: {}", names.join(", "));
    }
    let needed = |name: &str| wanted(name) || (!only && BASE.contains(&name));
    Ok(known.into_iter().filter(|(name, _)| needed(name)).collect())
}

/// Runs suites, also after one that failed, unless the others build on it.
///
/// # Errors
/// With all that failed.
pub(crate) fn run(stage: &Stage<'_>, suites: &[Suite]) -> Result<()> {
    let mut failures = Vec::new();
    for (name, suite) in suites {
        let begun = Instant::now();
        note(&format!("suite {name}"));
        let seconds = || format!("{:.1} s", begun.elapsed().as_secs_f64());
        match suite(stage) {
            Ok(()) => note(&format!("suite {name}: passed in {}", seconds())),
            Err(error) => {
                note(&format!("suite {name}: FAILED after {}: {error:#}", seconds()));
                failures.push(*name);
                if BASE.contains(name) || run::stopped() {
                    break;
                }
            }
        }
    }
    ensure!(failures.is_empty(), "suites failed: {}", failures.join(", "));
    Ok(())
}
