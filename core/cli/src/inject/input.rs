//! # Manifests from files
//!
//! Job: files, folders, addresses and stdin to objects: documents split, lists expanded.
//! May touch: files, stdin, the network through `fetch`. Callers: `inject`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use mesh_charts::yaml;
use serde_json::Value;

use super::fetch;

/// Reads all objects, in order.
pub(super) async fn read(names: &[String]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
            parse(&text, "stdin", &mut objects)?;
        } else if name.starts_with("http://") || name.starts_with("https://") {
            parse(&fetch::text(name).await?, name, &mut objects)?;
        } else {
            for file in files(Path::new(name))? {
                let text = crate::values::read_text(&file)?;
                parse(&text, &file.display().to_string(), &mut objects)?;
            }
        }
    }
    Ok(objects)
}

/// A file, or all files below a folder, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let meta =
        std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut inside: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot list {}", path.display()))?;
    inside.sort();
    let mut found = Vec::new();
    for path in inside {
        // A link to a folder above would never end.
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(path);
        }
    }
    Ok(found)
}

fn parse(text: &str, source: &str, objects: &mut Vec<Value>) -> Result<()> {
    let documents = yaml::parse_all(text).with_context(|| format!("cannot use {source}"))?;
    for mut document in documents {
        if !document.is_object() {
            bail!("{source}: a document is no Kubernetes object");
        }
        if document["kind"] == "List" && document["items"].is_array() {
            if let Value::Array(items) = document["items"].take() {
                objects.extend(items);
            }
        } else {
            objects.push(document);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_are_split_and_lists_expanded() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("b.yaml", "kind: List\nitems:\n- kind: A\n- kind: B\n");
        write("a.yaml", "kind: C\n---\n---\nkind: D\n");
        write("c.txt", "not: read\n");
        let objects = read(&[folder.path().display().to_string()]).await.unwrap();
        let kinds: Vec<_> = objects.iter().map(|o| o["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["C", "D", "A", "B"]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        let error = read(&["/nonexistent".to_owned()]).await.unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent"));
    }
}
