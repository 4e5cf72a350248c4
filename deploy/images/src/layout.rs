//! # Image layouts
//!
//! Job: an image of one layer as a tar archive that `ctr images import`, `kind load image-archive`, `docker load`
//! and `podman load` take: an OCI image layout, with Docker's list beside it.
//! May touch: `gzip`. Callers: `main`.

use crate::archive::Archive;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

/// What an image is told apart from its files.
pub(crate) struct Config<'a> {
    /// Full names with tags.
    pub(crate) names: &'a [String],
    /// Numeric, so that a kubelet can see that it is not root.
    pub(crate) user: u32,
    pub(crate) entrypoint: &'a str,
}

/// An image, ready to be written.
pub(crate) struct Image {
    pub(crate) archive: Vec<u8>,
    /// What a registry sends for the layer.
    pub(crate) compressed: usize,
    pub(crate) plain: usize,
}

/// Packs the files of `layer` as an image.
///
/// # Errors
/// When `gzip` cannot be run.
pub(crate) fn pack(config: &Config, layer: &[u8]) -> Result<Image> {
    let compressed = gzip(layer)?;
    let settings = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": format!("{0}:{0}", config.user),
            "Entrypoint": [config.entrypoint],
            "Env": ["PATH=/usr/bin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "mesh-images" }],
    });
    let settings = settings.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &settings),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &compressed)],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": config.names.iter().map(|name| named(name, &manifest)).collect::<Vec<_>>(),
    });
    let docker = json!([{
        "Config": blob(&settings),
        "RepoTags": config.names,
        "Layers": [blob(&compressed)],
    }]);
    let mut archive = Archive::default();
    archive.folder("blobs")?;
    archive.folder("blobs/sha256")?;
    for content in [&settings, &manifest, &compressed] {
        archive.file(&blob(content), 0o644, content)?;
    }
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    archive.file("manifest.json", 0o644, docker.to_string().as_bytes())?;
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(Image { archive: archive.finish(), compressed: compressed.len(), plain: layer.len() })
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn named(name: &str, manifest: &[u8]) -> Value {
    let mut entry = descriptor(MANIFEST, manifest);
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    let tag = name.rsplit(':').next().unwrap_or_default();
    entry["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    entry
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hash(content))
}

fn blob(content: &[u8]) -> String {
    format!("blobs/sha256/{}", hash(content))
}

fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that images have for this machine's processors.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Every Linux has `gzip`, and its `-n` leaves out the time.
fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .args(["-9", "-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("gzip cannot be run; install it")?;
    let mut stdin = child.stdin.take().context("gzip has no input")?;
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(content));
        child.wait_with_output()
    })
    .context("gzip")?;
    ensure!(output.status.success(), "gzip ended with {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, fs};

    fn packed() -> Image {
        let mut layer = Archive::default();
        layer.file("controller", 0o755, &[7; 4096]).unwrap();
        let names = ["cr.l5d.io/linkerd/controller:0.1.0".to_owned()];
        let config = Config { names: &names, user: 2103, entrypoint: "/controller" };
        pack(&config, &layer.finish()).unwrap()
    }

    fn unpacked(image: &Image) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        fs::write(&path, &image.archive).unwrap();
        let done = Command::new("tar").arg("-xf").arg(&path).current_dir(folder.path()).status();
        assert!(done.unwrap().success());
        let read = |name: String| (name.clone(), fs::read(folder.path().join(name)).unwrap());
        let blobs = fs::read_dir(folder.path().join("blobs/sha256")).unwrap();
        let blobs = blobs.map(|e| format!("blobs/sha256/{}", e.unwrap().file_name().display()));
        let rest = ["index.json", "manifest.json", "oci-layout"].map(ToOwned::to_owned);
        blobs.chain(rest).map(read).collect()
    }

    /// Every digest leads to content that has it, down to the layer's own.
    #[test]
    fn digests_lead_from_the_index_to_the_layer() {
        let files = unpacked(&packed());
        let follow = |entry: &Value| {
            let digest = entry["digest"].as_str().unwrap();
            let content = &files[&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))];
            assert_eq!(super::digest(content), digest);
            assert_eq!(entry["size"], content.len());
            content.clone()
        };
        let parse = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
        let index = parse(&files["index.json"]);
        let entry = &index["manifests"][0];
        let name = &entry["annotations"]["io.containerd.image.name"];
        assert_eq!(name, "cr.l5d.io/linkerd/controller:0.1.0");
        let manifest = parse(&follow(entry));
        let settings = parse(&follow(&manifest["config"]));
        assert_eq!(settings["config"]["User"], "2103:2103");
        let layer = follow(&manifest["layers"][0]);
        let mut gunzip = Command::new("gzip")
            .args(["-d", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        gunzip.stdin.take().unwrap().write_all(&layer).unwrap();
        let plain = gunzip.wait_with_output().unwrap().stdout;
        assert_eq!(settings["rootfs"]["diff_ids"][0], digest(&plain));
        let docker = parse(&files["manifest.json"]);
        assert_eq!(docker[0]["RepoTags"][0], *name);
        assert!(files.contains_key(docker[0]["Layers"][0].as_str().unwrap()));
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        assert_eq!(packed().archive, packed().archive);
    }
}
