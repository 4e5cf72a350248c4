//! # Images without a container engine
//!
//! Job: builds static executables and packs them as image archives; prints their sizes and fails when one is too
//! large. The same executables give the same bytes.
//! May touch: `cargo`, `gzip`, the folders that it is told. Callers: `just images`, the suites on real clusters.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool that reports to its user")]

mod archive;
mod elf;
mod layout;
mod programs;
mod recipe;

use crate::{
    archive::{Archive, NET_ADMIN_RAW},
    layout::Config,
    recipe::{PASSWD, RECIPES, Recipe, Source},
};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The profile of published images, for which their limits hold.
const PUBLISHED: &str = "image";

/// Builds the images of the mesh as archives.
#[derive(Debug, Parser)]
#[command(name = "mesh-images")]
struct Args {
    /// Folder for the archives
    #[arg(long, default_value = "target/images")]
    out: PathBuf,
    /// Cargo's profile: `image` is what is published; `release` is compiled once with `mesh` itself
    #[arg(long, default_value = PUBLISHED)]
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

fn main() -> ExitCode {
    if std::env::var_os(programs::AS_COMPILER).is_some() {
        return programs::compile(std::env::args_os().skip(1));
    }
    match write(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(args: &Args) -> Result<()> {
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        None => programs::build(&args.profile)?,
    };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut heavy = Vec::new();
    for recipe in &RECIPES {
        let names = names(recipe, args);
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
            "{}: {} ({:.2} MB compressed, {:.2} MB plain; limit {:.0} MB with the profile `image`)",
            path.display(),
            names.join(", "),
            megabytes(image.compressed),
            megabytes(image.plain),
            megabytes(recipe.limit)
        );
        // Built in haste, they are larger than what is published.
        if args.profile == PUBLISHED && image.compressed > recipe.limit {
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
                archive.file(file.path, 0o755, &elf::read_static(&binaries.join(name))?)?;
            }
        }
    }
    Ok(archive.finish())
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
