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
use anyhow::{Context, Result, anyhow, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
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
    provider.check()?;
    note("building what is missing; the first time that takes minutes");
    let clusters = || phase("building what clusters are made of", || provider.build());
    let ((), (mesh, archives)) = at_once(clusters, || ours(args))?;
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

/// `mesh` and the archives of the images, built or as they were given.
fn ours(args: &Args) -> Result<(PathBuf, Vec<PathBuf>)> {
    let mesh = match &args.mesh {
        Some(path) => path.clone(),
        None => phase("building `mesh`", build_mesh)?,
    };
    executable(&mesh, "name another with --mesh, or leave the flag out to have it built")?;
    let images = match &args.images {
        Some(folder) => folder.clone(),
        None => phase("building the images", || build_images(&args.profile))?,
    };
    Ok((mesh, archives(&images)?))
}

/// Two builds side by side: while one waits for the network or links, the other has the cores. When one fails, the other
/// is stopped, and the failure is told.
fn at_once<A: Send, B>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    let first = Mutex::new(None);
    let failed = |error: anyhow::Error| {
        first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        run::stop();
    };
    let (one, other) = std::thread::scope(|threads| {
        let one = threads.spawn(|| one().map_err(failed));
        let other = other().map_err(failed);
        let panicked = |_| Err(anyhow!("the thread of a build panicked")).map_err(failed);
        (one.join().unwrap_or_else(panicked), other)
    });
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        _ => {
            let first = first.into_inner().unwrap_or_else(PoisonError::into_inner);
            Err(first.unwrap_or_else(|| anyhow!("interrupted")))
        }
    }
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
    let args = ["run", "--release", "--quiet", "-p", "mesh-images", "--", "--profile", profile];
    cargo(&args, &["--out".as_ref(), out.as_os_str()])?;
    Ok(out)
}

fn build_mesh() -> Result<PathBuf> {
    cargo(&["build", "--release", "--quiet", "-p", "mesh-cli"], &[])?;
    Ok(target().join("release/mesh"))
}

fn cargo(args: &[&str], more: &[&std::ffi::OsStr]) -> Result<()> {
    run::long(Command::new(env!("CARGO")).args(args).args(more).current_dir(root())).map(drop)
}
