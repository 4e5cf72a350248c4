//! # Source files
//!
//! Job: door signs, files that no module declares, calls that belong elsewhere, and sizes.
//! May touch: files of the work tree. Callers: main.

use crate::{
    Finding,
    workspace::{Layer, Package},
};
use anyhow::Result;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A Rust file.
pub(crate) struct Source {
    /// `core/model/src/lib.rs`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) package: usize,
    pub(crate) text: String,
    /// Under `src/`, as against `tests/`.
    pub(crate) production: bool,
}

impl Source {
    /// Lines before the file's own tests.
    fn length(&self) -> usize {
        self.text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count()
    }
}

/// A call that only some rooms may make: text, who may, why.
type Reserved = (&'static str, fn(&Package, &str) -> bool, &'static str);

const RESERVED: [Reserved; 4] = [
    (
        "std::env::var",
        may_read_environment,
        "the environment is read by binaries, through the settings table",
    ),
    ("unsafe {", |p, _| p.name == "mesh-net", "only proxy/net may hold unsafe code"),
    (
        "prometheus::default_registry",
        |_, _| false,
        "several components live in one process: use an own Registry",
    ),
    ("TcpListener::bind", may_listen, "only proxy/net opens sockets of the data plane"),
];

fn may_read_environment(package: &Package, file: &str) -> bool {
    // A cluster's lease lies where the system keeps this user's runtime files, whoever brings it up.
    let runtime_folder = file == "core/sandbox/src/cluster/up.rs";
    matches!(package.layer, Layer::Tool | Layer::Room(6..))
        || package.name == "mesh-process"
        || runtime_folder
}

fn may_listen(package: &Package, _: &str) -> bool {
    !(package.folder.starts_with("proxy/") || package.folder == "gateway")
        || package.name == "mesh-net"
        || package.layer == Layer::Tool
}

/// Reads every Rust file of every package.
pub(crate) fn read(packages: &[Package]) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for (index, package) in packages.iter().enumerate() {
        for part in ["src", "tests"] {
            let mut found = Vec::new();
            walk(&package.dir.join(part), &mut found)?;
            for path in found {
                let text = fs::read_to_string(&path)?;
                let inside = path.strip_prefix(&package.dir)?.to_string_lossy().into_owned();
                let name = format!("{}/{inside}", package.folder);
                files.push(Source { name, path, package: index, text, production: part == "src" });
            }
        }
    }
    Ok(files)
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

/// Everything that fails.
pub(crate) fn check(packages: &[Package], files: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let sign = if file.production { "//! # " } else { "//! " };
        if !file.text.starts_with(sign) {
            findings.push(format!("{} does not open with its door sign (`{sign}...`)", file.name));
        }
        let production: String = file
            .text
            .lines()
            .take_while(|l| !l.starts_with("#[cfg(test)]"))
            .fold(String::new(), |text, line| text + line + "\n");
        for (call, may, why) in RESERVED {
            let tool_itself = packages[file.package].name == "mesh-tidy";
            if file.production
                && !tool_itself
                && production.contains(call)
                && !may(&packages[file.package], &file.name)
            {
                findings.push(format!("{} has `{call}`: {why}", file.name));
            }
        }
    }
    findings.extend(orphans(files));
    findings
}

/// Files that no `mod` leads to.
fn orphans(files: &[Source]) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    for file in files {
        let stem = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let parent = file.path.parent().unwrap_or(Path::new(""));
        let in_root =
            parent.ends_with("src") || parent.ends_with("bin") || parent.ends_with("tests");
        // Cargo takes tests/<name>/main.rs as a test program of several files.
        let test_folder = stem == "main" && parent.parent().is_some_and(|p| p.ends_with("tests"));
        let crate_root = test_folder
            || in_root
                && (["lib", "main"].contains(&stem.as_str())
                    || !file.production
                    || parent.ends_with("bin"));
        if crate_root {
            reached.insert(file.path.clone());
        }
        let inside = if crate_root && ["lib", "main"].contains(&stem.as_str()) {
            parent.to_owned()
        } else {
            parent.join(&stem)
        };
        let mut explicit = None;
        for line in file.text.lines().map(str::trim) {
            if let Some(path) = line.strip_prefix("#[path = \"").and_then(|l| l.split('"').next()) {
                explicit = Some(parent.join(path));
                continue;
            }
            let Some(name) = declared(line) else { continue };
            match explicit.take() {
                Some(path) => {
                    reached.insert(path.canonicalize().unwrap_or(path));
                }
                None => {
                    for base in [&inside, &parent.to_owned()] {
                        reached.insert(base.join(format!("{name}.rs")));
                        reached.insert(base.join(name).join("mod.rs"));
                    }
                }
            }
        }
    }
    let orphan = |f: &&Source| !reached.contains(&f.path);
    files.iter().filter(orphan).map(|f| format!("{} is declared by no module", f.name)).collect()
}

fn declared(line: &str) -> Option<&str> {
    let line = line.strip_suffix(';')?;
    let name = ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "]
        .iter()
        .find_map(|start| line.strip_prefix(start))?;
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then_some(name)
}

/// Sizes, to look at.
pub(crate) fn yardsticks(files: &[Source]) -> String {
    let mut lengths: Vec<(usize, &str)> =
        files.iter().filter(|f| f.production).map(|f| (f.length(), f.name.as_str())).collect();
    lengths.sort_unstable();
    let at = |percent: usize| {
        lengths.get(lengths.len().saturating_sub(1) * percent / 100).map_or(0, |l| l.0)
    };
    let mut text = format!(
        "tidy: production files: median {} lines, p90 {}, max {}\n",
        at(50),
        at(90),
        at(100)
    );
    for (length, name) in lengths.iter().rev().filter(|(length, _)| *length > 700) {
        text += &format!("tidy: look at {name}: {length} lines, a sitting is 700\n");
    }
    text
}
