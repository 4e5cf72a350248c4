//! # Rules and their tests
//!
//! Job: holds the rows of every RULES.md against the `proves:` comments of the tests. A row without a
//! test is printed; a test that names no row is a finding.
//! May touch: RULES.md files. Callers: main.

use crate::{Finding, sources::Source};
use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs, path::Path};

const LISTS: [&str; 3] = ["core/RULES.md", "proxy/RULES.md", "mirror/RULES.md"];

/// Findings; prints the rows that no test proves.
#[expect(clippy::print_stdout, reason = "what a person should look at is the tool's output")]
pub(crate) fn check(root: &Path, files: &[Source]) -> Result<Vec<Finding>> {
    let mut rows = BTreeSet::new();
    let mut findings = Vec::new();
    for list in LISTS {
        let text = fs::read_to_string(root.join(list)).with_context(|| list.to_owned())?;
        for id in text.lines().filter_map(row) {
            if !rows.insert(id.to_owned()) {
                findings.push(format!("{list}: the id {id} stands twice"));
            }
        }
    }
    let mut proved = BTreeSet::new();
    for file in files {
        for id in file
            .text
            .lines()
            .filter_map(|l| l.split_once("proves: "))
            .flat_map(|(_, ids)| ids.split([',', ' ']))
        {
            let id = id.trim();
            if !is_id(id) {
                continue;
            }
            if !rows.contains(id) {
                findings.push(format!("{} proves {id}, which no RULES.md lists", file.name));
            }
            proved.insert(id.to_owned());
        }
    }
    let open: Vec<&str> = rows.difference(&proved).map(String::as_str).collect();
    println!(
        "tidy: {} rules, {} without a test{}{}",
        rows.len(),
        open.len(),
        if open.is_empty() { "" } else { ": " },
        open.join(" ")
    );
    Ok(findings)
}

fn row(line: &str) -> Option<&str> {
    let id = line.strip_prefix('|')?.split('|').next()?.trim();
    is_id(id).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.rsplit_once('-').is_some_and(|(family, number)| {
        !family.is_empty()
            && family.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}
