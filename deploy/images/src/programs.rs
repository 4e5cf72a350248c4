//! # The images' executables
//!
//! Job: has cargo build them, linked statically: nothing else is in the images. With the profile `release` they are
//! built with `mesh`, in the workspace's own target folder: all that they are linked from is compiled once for both.
//! May touch: `cargo`. Callers: `main`.

use crate::{elf, recipe};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Set for the compiler's sake: this program stands in its place, see [`compile`].
pub(crate) const AS_COMPILER: &str = "MESH_IMAGES_AS_COMPILER";

/// Builds the executables by cargo's `profile` and gives their folder.
///
/// # Errors
/// When cargo cannot be run or fails.
pub(crate) fn build(profile: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder)?,
        None => root.join("target"),
    };
    match profile {
        "release" => beside_mesh(&root, &target),
        _ => apart(&root, &target.join("static"), profile),
    }
}

/// All code is compiled as for `mesh`; only the last step, linking, differs.
fn beside_mesh(root: &Path, target: &Path) -> Result<PathBuf> {
    let folder = target.join("release");
    let build = || {
        // With `mesh`, so that cargo chooses the same features of each crate.
        let mut cargo = cargo(root, &["build", "--release", "--package", "mesh-cli"]);
        // Without the proxy's own allocator, which takes a minute more.
        cargo.arg("--no-default-features");
        cargo.env("RUSTC_WRAPPER", std::env::current_exe()?).env(AS_COMPILER, "1");
        run(cargo.arg("--target-dir").arg(target))
    };
    build()?;
    // Cargo does not see a difference between an executable of an earlier, plain build and one of this.
    let plain = recipe::binaries().any(|name| elf::is_dynamic(&folder.join(name)));
    if plain {
        run(cargo(root, &["clean", "--release"]).arg("--target-dir").arg(target))?;
        build()?;
    }
    Ok(folder)
}

/// Built by themselves, for a triple: flags for the triple do not reach build scripts and macros, which cannot be static.
fn apart(root: &Path, target: &Path, profile: &str) -> Result<PathBuf> {
    let triple = match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") if cfg!(target_os = "linux") => {
            format!("{arch}-unknown-linux-gnu")
        }
        arch => bail!(
            "images are built on Linux on x86_64 or aarch64, and this is {arch}; see Containerfile"
        ),
    };
    let flags = format!("target.{triple}.rustflags=[\"-C\",\"target-feature=+crt-static\"]");
    let strip = format!("profile.{profile}.strip=\"symbols\"");
    let mut cargo = cargo(root, &["build", "--profile", profile, "--target", &triple]);
    cargo.args(["--config", &flags, "--config", &strip]);
    run(cargo.arg("--target-dir").arg(target))?;
    Ok(target.join(triple).join(profile))
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root);
    cargo.args(recipe::packages().iter().flat_map(|package| ["--package", package]));
    cargo
}

fn run(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo ended with {status}");
    Ok(())
}

/// In the compiler's place (cargo's `RUSTC_WRAPPER`): the same, but links the images' executables statically.
pub(crate) fn compile(mut line: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(compiler) = line.next() else { return ExitCode::FAILURE };
    let args: Vec<OsString> = line.collect();
    let follows =
        |flag: &str, value: &str| args.windows(2).any(|pair| pair[0] == flag && pair[1] == value);
    let ours = follows("--crate-type", "bin")
        && recipe::binaries().any(|name| follows("--crate-name", &name.replace('-', "_")));
    let mut command = Command::new(compiler);
    command.args(&args);
    if ours {
        command.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    }
    let error = command.exec();
    eprintln!("the compiler cannot be run: {error}");
    ExitCode::FAILURE
}
