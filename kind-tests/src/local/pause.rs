//! # The pause image
//!
//! Job: an image archive with the one program that holds a Pod's namespaces.
//! May touch: files under the folder that it is given. Callers: `local`.

use crate::run;
use anyhow::{Context, Result};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Its name, as containerd's configuration asks for it.
pub(crate) const IMAGE: &str = "mesh.invalid/pause:1";

/// Writes a docker archive of `program` into `folder` and returns its path.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn archive(program: &Path, folder: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    fs::copy(program, root.join("pause"))
        .with_context(|| format!("cannot copy {}", program.display()))?;
    let layer = folder.join("layer.tar");
    tar(&layer, &root, &["pause"])?;
    let digest = run::program("sha256sum", [&layer])?;
    let digest = digest.split(' ').next().context("sha256sum prints no digest")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("pause.tar");
    tar(&archive, folder, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}

fn tar(to: &Path, folder: &Path, names: &[&str]) -> Result<()> {
    let mut args = vec!["--owner=0".as_ref(), "--group=0".as_ref(), "-cf".as_ref(), to.as_os_str()];
    args.extend(["-C".as_ref(), folder.as_os_str()]);
    args.extend(names.iter().map(|name| AsRef::<std::ffi::OsStr>::as_ref(*name)));
    run::program("tar", args)?;
    Ok(())
}
