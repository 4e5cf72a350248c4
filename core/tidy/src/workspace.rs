//! # The workspace as its manifests tell it
//!
//! Job: packages, their layers and edges; and whether ARCHITECTURE.md names the same rooms.
//! May touch: `cargo metadata`. Callers: main.

use crate::Finding;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A package of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Folder, relative to the root, with `/`.
    pub(crate) folder: String,
    pub(crate) dir: PathBuf,
    pub(crate) layer: Layer,
    pub(crate) dependencies: Vec<Dependency>,
}

/// Where a package stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Room(u64),
    Tool,
    Missing,
}

/// An edge of a package.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) dev: bool,
}

/// Reads all packages.
pub(crate) fn read(root: &Path) -> Result<Vec<Package>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cargo metadata does not start")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let list = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    list.iter().map(|package| of(root, package)).collect()
}

fn of(root: &Path, package: &Value) -> Result<Package> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let dir = manifest.parent().context("a manifest without a folder")?.to_owned();
    let layer = &package["metadata"]["mesh"]["layer"];
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    Ok(Package {
        name: text(&package["name"]),
        folder: dir.strip_prefix(root)?.to_string_lossy().into_owned(),
        dir,
        layer: match (layer.as_u64(), layer.as_str()) {
            (Some(n), _) => Layer::Room(n),
            (None, Some("tool")) => Layer::Tool,
            _ => Layer::Missing,
        },
        dependencies: dependencies
            .map(|d| Dependency { name: text(&d["name"]), dev: d["kind"] == "dev" })
            .collect(),
    })
}

/// ARCHITECTURE.md must name every package, and no package that does not exist.
pub(crate) fn check_map(root: &Path, packages: &[Package]) -> Result<Vec<Finding>> {
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let named: BTreeSet<&str> = map
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("mesh-"))
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        if !named.contains(package.name.as_str()) {
            findings.push(format!(
                "ARCHITECTURE.md does not name {} ({})",
                package.name, package.folder
            ));
        }
    }
    for name in named {
        if !packages.iter().any(|p| p.name == name) {
            findings.push(format!("ARCHITECTURE.md names {name}, which does not exist"));
        }
    }
    Ok(findings)
}
