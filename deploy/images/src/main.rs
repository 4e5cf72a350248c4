//! # Images without a container engine
//!
//! Job: builds static executables and packs them as image archives; prints their sizes and fails when one is too
//! large. The same executables give the same bytes.
//! May touch: `cargo`, `gzip`, the folders that it is told. Callers: `just images`, the suites on real clusters.

#![expect(clippy::print_stdout, reason = "a tool that reports on its standard output")]

mod archive;
mod layout;
mod recipe;

use crate::{
    archive::{Archive, NET_ADMIN_RAW},
    layout::Config,
    recipe::{PASSWD, RECIPES, Recipe, Source},
};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Builds the images of the mesh as archives.
#[derive(Debug, Parser)]
#[command(name = "mesh-images")]
struct Args {
    /// Folder for the archives
    #[arg(long, default_value = "target/images")]
    out: PathBuf,
    /// Folder in which cargo builds
    #[arg(long, default_value = "target/static")]
    target_dir: PathBuf,
    /// Cargo's profile: `image` is what is published, `release` builds quicker
    #[arg(long, default_value = "image")]
    profile: String,
    /// Folder with the executables; without it they are built
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Registry and folder in the images' names
    #[arg(long, default_value = "cr.l5d.io/linkerd")]
    registry: String,
    /// Tag in the images' names
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        None => build(&args)?,
    };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut heavy = Vec::new();
    for recipe in &RECIPES {
        let names = names(recipe, &args);
        let layer = layer(recipe, &binaries)?;
        let config = Config { names: &names, user: recipe.user, entrypoint: recipe.entrypoint };
        let image = layout::pack(&config, &layer)?;
        let path = args.out.join(format!("{}.tar", recipe.name));
        // Whoever reads the folder meanwhile finds a whole archive, the old one or the new.
        let part = path.with_extension("part");
        fs::write(&part, &image.archive)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!(
            "{}: {} ({:.2} MB compressed, {:.2} MB plain; limit {:.0} MB)",
            path.display(),
            names.join(", "),
            megabytes(image.compressed),
            megabytes(image.plain),
            megabytes(recipe.limit)
        );
        if image.compressed > recipe.limit {
            heavy.push(recipe.name);
        }
    }
    ensure!(heavy.is_empty(), "too large: {}; see what its executables link", heavy.join(", "));
    Ok(())
}

/// Full names. An image that the charts do not name is also found without a tag.
fn names(recipe: &Recipe, args: &Args) -> Vec<String> {
    match recipe.fixed {
        None => vec![format!("{}/{}:{}", args.registry, recipe.name, args.tag)],
        Some(folder) => [args.tag.as_str(), "latest"]
            .map(|tag| format!("{folder}/{}:{tag}", recipe.name))
            .into(),
    }
}

/// Builds the executables, linked statically: nothing else is in the images. Gives their folder.
fn build(args: &Args) -> Result<PathBuf> {
    let triple = match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") if cfg!(target_os = "linux") => {
            format!("{arch}-unknown-linux-gnu")
        }
        arch => bail!(
            "images are built on Linux on x86_64 or aarch64, and this is {arch}; see Containerfile"
        ),
    };
    // Not RUSTFLAGS: those would reach build scripts and macros too, which cannot be static.
    let flags = format!("target.{triple}.rustflags=[\"-C\",\"target-feature=+crt-static\"]");
    let strip = format!("profile.{}.strip=\"symbols\"", args.profile);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--profile", &args.profile, "--target", &triple]);
    cargo.args(["--config", &flags, "--config", &strip]);
    cargo.args(recipe::packages().iter().flat_map(|package| ["--package", package]));
    cargo.arg("--target-dir").arg(std::path::absolute(&args.target_dir)?).current_dir(root);
    let status = cargo.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo build ended with {status}");
    Ok(args.target_dir.join(triple).join(&args.profile))
}

fn layer(recipe: &Recipe, binaries: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let paths =
        recipe.files.iter().map(|file| Path::new(file.path)).chain([Path::new("etc/passwd")]);
    let folders: BTreeSet<_> = paths.flat_map(|path| path.ancestors().skip(1)).collect();
    for folder in folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
        archive.folder(&folder.to_string_lossy())?;
    }
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    for file in recipe.files {
        if let Source::NetworkBinary(_) = file.from {
            archive.permit(NET_ADMIN_RAW)?;
        }
        match file.from {
            Source::Link(target) => archive.link(file.path, target)?,
            Source::Binary(name) | Source::NetworkBinary(name) => {
                archive.file(file.path, 0o755, &executable(&binaries.join(name))?)?;
            }
        }
    }
    Ok(archive.finish())
}

/// Reads an executable and makes sure that it asks for no other file: the image has none.
fn executable(path: &Path) -> Result<Vec<u8>> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(content.starts_with(b"\x7fELF"), "{} is no executable of Linux", path.display());
    ensure!(
        !has_interpreter(&content),
        "{} is linked dynamically; build it with -C target-feature=+crt-static",
        path.display()
    );
    Ok(content)
}

/// Whether a 64-bit ELF file has a program header of the kind PT_INTERP.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size).unwrap_or_default();
        bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let table = usize::try_from(number(32, 8)).unwrap_or(usize::MAX / 2);
    let (size, count) = (number(54, 2) as usize, number(56, 2) as usize);
    (0..count).any(|row| number(table + row * size, 4) == PT_INTERP)
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test itself is linked dynamically.
    #[test]
    fn a_dynamic_executable_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = executable(&own).unwrap_err().to_string();
        assert!(error.contains("is linked dynamically"), "{error}");
    }
}
