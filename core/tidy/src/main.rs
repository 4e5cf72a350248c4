//! # Tidy: the architecture as a test
//!
//! Job: reads manifests and sources as text and fails where they break the map: layers, forbidden
//! edges, door signs, orphan files, the list of rooms in ARCHITECTURE.md; prints sizes and rule rows
//! without a test, which are to be looked at.
//! May touch: the work tree, `cargo metadata` (offline). Must not touch: a build, the network.
//! Callers: CI, `cargo run -p mesh-tidy`.

#![expect(clippy::print_stdout, reason = "a tool that reports on its standard output")]

mod edges;
mod rules;
mod sources;
mod workspace;

use anyhow::{Context, Result};
use std::{path::PathBuf, process::ExitCode};

/// One broken rule: where, and what to do.
pub(crate) type Finding = String;

fn main() -> Result<ExitCode> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().context("the workspace root is not where the manifest says")?;
    let packages = workspace::read(&root)?;
    let files = sources::read(&packages)?;
    let mut findings = edges::check(&packages);
    findings.extend(sources::check(&packages, &files));
    findings.extend(workspace::check_map(&root, &packages)?);
    findings.extend(rules::check(&root, &files)?);
    print!("{}", sources::yardsticks(&files));
    for finding in &findings {
        println!("tidy: {finding}");
    }
    println!(
        "tidy: {} packages, {} files, {} findings",
        packages.len(),
        files.len(),
        findings.len()
    );
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
