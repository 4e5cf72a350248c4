//! # From nothing to green, and back
//!
//! Job: brings the clusters up, gives them the images, runs the suites, takes all away; says where the logs are.
//! May touch: the provider, cargo (for images and `mesh`). Callers: `main`.

use crate::{
    note,
    provider::Provider,
    run,
    stage::{Stage, executable},
    suites::{self, Suite},
};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// What `e2e` takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only suites whose name contains this, and those that they need
    filter: Option<String>,
    /// Folder with image archives; without it they are built
    #[arg(long)]
    images: Option<PathBuf>,
    /// Cargo's profile for images that are built: `image` is what is published, `release` is compiled once with `mesh`
    #[arg(long, default_value = "release")]
    profile: String,
    /// The `mesh` command; without it it is built
    #[arg(long)]
    mesh: Option<PathBuf>,
    /// Leave the clusters up
    #[arg(long)]
    keep: bool,
    /// Leave out the suites that the chosen ones need: an earlier run with --keep has done them
    #[arg(long, requires = "filter")]
    only: bool,
}

/// Runs the suites.
///
/// # Errors
/// With the first thing that failed and the folder of logs.
pub(crate) fn run(provider: &dyn Provider, state: &Path, args: &Args) -> Result<()> {
    let begun = Instant::now();
    let suites = suites::choose(args.filter.as_deref(), args.only)?;
    // What is missing on this machine is told before minutes of building.
    provider.prepare()?;
    if args.mesh.is_none() || args.images.is_none() {
        note("building what is missing; the first time that takes minutes");
    }
    let mesh = match &args.mesh {
        Some(path) => path.clone(),
        None => phase("building `mesh`", build_mesh)?,
    };
    executable(&mesh, "name another with --mesh, or leave the flag out to have it built")?;
    let images = match &args.images {
        Some(folder) => folder.clone(),
        None => phase("building the images", || build_images(&args.profile))?,
    };
    let archives = archives(&images)?;
    let played = play(provider, state, &archives, mesh, &suites);
    let played = played.map_err(|error| match run::stopped() {
        true => error,
        false => error.context(format!("logs of every component: {}", provider.logs().display())),
    });
    if !args.keep {
        run::clear_stop();
        let ended = phase("taking the clusters away", || provider.down());
        // The first failure is the one to tell.
        played?;
        ended?;
    } else {
        played?;
    }
    note(&format!("all green in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Does a part of the run and says how long it took.
fn phase<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let done = work()?;
    note(&format!("{what}: {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(done)
}

fn play(
    provider: &dyn Provider,
    state: &Path,
    archives: &[PathBuf],
    mesh: PathBuf,
    suites: &[Suite],
) -> Result<()> {
    phase("both clusters Ready", || provider.up())?;
    phase("giving the clusters the images", || {
        archives.iter().try_for_each(|archive| provider.load_image(archive))
    })?;
    let ca = state.join("ca");
    std::fs::create_dir_all(&ca)?;
    suites::run(&Stage::new(provider, mesh, ca)?, suites)
}

fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder of images {}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "tar"))
        .collect();
    found.sort();
    ensure!(!found.is_empty(), "{} holds no image archives (*.tar)", folder.display());
    Ok(found)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The images, as their own recipe makes them; it prints their sizes.
fn build_images(profile: &str) -> Result<PathBuf> {
    let out = target().join("images").join(profile);
    let args = ["run", "--quiet", "-p", "mesh-images", "--", "--profile", profile];
    cargo(&args, &["--out".as_ref(), out.as_os_str()])?;
    Ok(out)
}

fn build_mesh() -> Result<PathBuf> {
    cargo(&["build", "--release", "--quiet", "-p", "mesh-cli"], &[])?;
    Ok(target().join("release/mesh"))
}

fn cargo(args: &[&str], more: &[&std::ffi::OsStr]) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(args)
        .args(more)
        .current_dir(root())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", args.join(" "));
    Ok(())
}
