//! # Volumes
//!
//! Job: what the files of a Pod's volumes should be, and writing them so that a reader sees either the old or
//! the new set: a fresh folder, then one atomic switch of the link `..data`, as the kubelet does.
//! May touch: the Pod's folder. Must not touch: the API; tokens are handed in. Callers: the Pod's task.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection,
};
use sha2::{Digest, Sha256};

use super::env::{Missing, Place, Sources, pod_field, resource_field};

/// Where a ServiceAccount's token is expected.
pub(crate) const ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name of the volume that is added for it.
const ACCOUNT_VOLUME: &str = "kube-api-access";

/// Files of one volume: relative path, content and mode.
pub(crate) type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// A token that a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    pub(crate) audience: Option<String>,
    pub(crate) expiration_seconds: i64,
}

/// What has to be at hand to render volumes.
pub(crate) struct Rendering<'a, S> {
    pub(crate) pod: &'a Pod,
    pub(crate) place: &'a Place,
    pub(crate) sources: &'a S,
    pub(crate) tokens: &'a BTreeMap<TokenWish, String>,
}

/// The Pod's volumes, with the one for its ServiceAccount's token if nobody has put one in yet.
pub(crate) fn volumes(pod: &Pod, automount: bool) -> Vec<Volume> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let mut volumes = spec.volumes.clone().unwrap_or_default();
    if automount && all_containers(pod).any(lacks_account) {
        volumes.push(account_volume());
    }
    volumes
}

/// Init containers, then containers.
pub(crate) fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

fn lacks_account(container: &Container) -> bool {
    !container
        .volume_mounts
        .iter()
        .flatten()
        .any(|m| m.mount_path.trim_end_matches('/') == ACCOUNT_PATH)
}

fn account_volume() -> Volume {
    serde_json::from_value(serde_json::json!({
        "name": ACCOUNT_VOLUME,
        "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]},
    }))
    .unwrap_or_default()
}

/// Tokens which the Pod's volumes need.
pub(crate) fn token_wishes(volumes: &[Volume]) -> Vec<TokenWish> {
    let projections = volumes.iter().filter_map(|v| v.projected.as_ref());
    let tokens = projections
        .flat_map(|p| p.sources.iter().flatten())
        .filter_map(|s| s.service_account_token.as_ref());
    tokens
        .map(|t| TokenWish {
            audience: t.audience.clone().filter(|a| !a.is_empty()),
            expiration_seconds: t.expiration_seconds.unwrap_or(3600),
        })
        .collect()
}

impl<S: Sources> Rendering<'_, S> {
    /// The files of one volume; none if it is an empty folder to the Pod's own use.
    pub(crate) fn files(&self, volume: &Volume) -> Result<Option<Files>, Missing> {
        if let Some(source) = &volume.config_map {
            let mode = mode(source.default_mode);
            let optional = source.optional == Some(true);
            return self
                .config_map(&source.name, source.items.as_deref(), optional, mode)
                .map(Some);
        }
        if let Some(source) = &volume.secret {
            let mode = mode(source.default_mode);
            let name = source.secret_name.clone().unwrap_or_default();
            let optional = source.optional == Some(true);
            return self.secret(&name, source.items.as_deref(), optional, mode).map(Some);
        }
        if let Some(source) = &volume.downward_api {
            let mode = mode(source.default_mode);
            return self.downward(source.items.as_deref().unwrap_or_default(), mode).map(Some);
        }
        if let Some(source) = &volume.projected {
            let mode = mode(source.default_mode);
            let mut files = Files::new();
            for projection in source.sources.iter().flatten() {
                files.extend(self.projection(projection, mode)?);
            }
            return Ok(Some(files));
        }
        if volume.empty_dir.is_some() || volume.host_path.is_some() {
            // A host's folder is nobody's business here: the Pod gets an empty one.
            return Ok(None);
        }
        Err(Missing(format!(
            "volume {:?} is of a kind that the sandbox does not have",
            volume.name
        )))
    }

    fn projection(&self, source: &VolumeProjection, mode: u32) -> Result<Files, Missing> {
        if let Some(map) = &source.config_map {
            let optional = map.optional == Some(true);
            return self.config_map(&map.name, map.items.as_deref(), optional, mode);
        }
        if let Some(secret) = &source.secret {
            let optional = secret.optional == Some(true);
            return self.secret(&secret.name, secret.items.as_deref(), optional, mode);
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.as_deref().unwrap_or_default(), mode);
        }
        let mut files = Files::new();
        if let Some(token) = &source.service_account_token {
            let wish = TokenWish {
                audience: token.audience.clone().filter(|a| !a.is_empty()),
                expiration_seconds: token.expiration_seconds.unwrap_or(3600),
            };
            let value =
                self.tokens.get(&wish).ok_or_else(|| Missing("token not issued yet".into()))?;
            files.insert(inside(&token.path)?, (value.clone().into_bytes(), 0o600));
        }
        Ok(files)
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<Files, Missing> {
        let Some(map) = self.sources.config_map(name) else {
            return if optional {
                Ok(Files::new())
            } else {
                Err(Missing(format!("configmap {name:?} not found")))
            };
        };
        let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
        pick(&text.chain(binary).collect(), items, optional, mode, name)
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<Files, Missing> {
        let Some(secret) = self.sources.secret(name) else {
            return if optional {
                Ok(Files::new())
            } else {
                Err(Missing(format!("secret {name:?} not found")))
            };
        };
        let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
        pick(&data, items, optional, mode, name)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: u32) -> Result<Files, Missing> {
        let mut files = Files::new();
        for item in items {
            let value = if let Some(field) = &item.field_ref {
                pod_field(self.pod, self.place, &field.field_path).ok_or_else(|| {
                    Missing(format!("unsupported fieldPath {:?}", field.field_path))
                })?
            } else if let Some(resource) = &item.resource_field_ref {
                let divisor = resource.divisor.as_ref().map(|d| d.0.as_str());
                let container = Container::default();
                let name = resource.container_name.as_deref();
                resource_field(self.pod, &container, name, &resource.resource, divisor)
            } else {
                String::new()
            };
            files.insert(inside(&item.path)?, (value.into_bytes(), mode));
        }
        Ok(files)
    }
}

fn mode(mode: Option<i32>) -> u32 {
    // The container runs as this very user, so the owner's bits are the ones that count.
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777 | 0o600
}

fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    name: &str,
) -> Result<Files, Missing> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return data.iter().map(|(k, v)| Ok((inside(k)?, (v.clone(), mode)))).collect();
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                files.insert(inside(&item.path)?, (value.clone(), mode));
            }
            None if optional => {}
            None => return Err(Missing(format!("{name:?} has no key {:?}", item.key))),
        }
    }
    Ok(files)
}

/// A path that stays inside its volume.
fn inside(path: &str) -> Result<PathBuf, Missing> {
    let path = PathBuf::from(path);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    if plain && path.components().next().is_some() {
        Ok(path)
    } else {
        Err(Missing(format!("path {} leads out of its volume", path.display())))
    }
}

/// Writes `files` into `dir` unless they are there already.
pub(crate) fn write(dir: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut hasher = Sha256::new();
    for (path, (content, mode)) in files {
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(mode.to_be_bytes());
        hasher.update((content.len() as u64).to_be_bytes());
        hasher.update(content);
    }
    let digest = hasher.finalize();
    let version: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let version = PathBuf::from(format!("..{version}"));
    let current = fs::read_link(dir.join("..data")).ok();
    if current.as_ref() == Some(&version) {
        return Ok(());
    }
    let fresh = dir.join(&version);
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir(&fresh)?;
    for (path, (content, mode)) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(*mode).open(path)?;
        file.write_all(content)?;
    }
    let link = dir.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&version, &link)?;
    fs::rename(&link, dir.join("..data"))?;
    show_top(dir, files)?;
    if let Some(old) = current {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

/// Each first path part is a link through `..data`.
fn show_top(dir: &Path, files: &Files) -> io::Result<()> {
    let tops: std::collections::BTreeSet<PathBuf> = files
        .keys()
        .filter_map(|p| p.components().next())
        .map(|c| PathBuf::from(c.as_os_str()))
        .collect();
    for top in &tops {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = PathBuf::from(entry.file_name());
        let internal = entry.file_name().as_encoded_bytes().starts_with(b"..");
        if !internal && !tops.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Lays the container's mounts below its root as links to the volumes.
pub(crate) fn mount(
    root: &Path,
    volumes_dir: &Path,
    container: &Container,
    volumes: &[Volume],
) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let mut mounts: Vec<(PathBuf, PathBuf)> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| {
            let volume = volumes_dir.join(&m.name);
            let target = match m.sub_path.as_deref().and_then(|p| inside(p).ok()) {
                Some(sub) => volume.join(sub),
                None => volume,
            };
            (PathBuf::from(m.mount_path.trim_end_matches('/')), target)
        })
        .collect();
    if lacks_account(container) && volumes.iter().any(|v| v.name == ACCOUNT_VOLUME) {
        mounts.push((PathBuf::from(ACCOUNT_PATH), volumes_dir.join(ACCOUNT_VOLUME)));
    }
    // Outer mounts first: an inner one lies inside the outer's volume, as in a real mount.
    mounts.sort_by_key(|(path, _)| path.components().count());
    for (path, target) in mounts {
        let Ok(relative) = inside(path.to_string_lossy().trim_start_matches('/')) else {
            return Err(io::Error::other(format!("mount path {} is not usable", path.display())));
        };
        let link = root.join(relative);
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::read_link(&link).is_ok_and(|t| t == target) {
            continue;
        }
        let _ = fs::remove_file(&link);
        symlink(target, link)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;
    use std::sync::Arc;

    struct Fixture(BTreeMap<String, String>);

    impl Sources for Fixture {
        fn config_map(&self, _: &str) -> Option<Arc<ConfigMap>> {
            Some(Arc::new(ConfigMap { data: Some(self.0.clone()), ..Default::default() }))
        }
        fn secret(&self, _: &str) -> Option<Arc<Secret>> {
            None
        }
    }

    fn map(pairs: &[(&str, &str)]) -> Fixture {
        Fixture(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn render(sources: &Fixture, volume: serde_json::Value) -> Result<Option<Files>, Missing> {
        let pod = serde_json::from_value(
            json!({"metadata": {"namespace": "ns"}, "spec": {"containers": []}}),
        )
        .unwrap();
        let wish = TokenWish { audience: Some("identity.l5d.io".into()), expiration_seconds: 600 };
        let tokens = BTreeMap::from([(wish, "jwt".to_owned())]);
        let place = Place::default();
        let rendering = Rendering { pod: &pod, place: &place, sources, tokens: &tokens };
        rendering.files(&serde_json::from_value(volume).unwrap())
    }

    #[test]
    fn a_projected_volume_merges_its_sources() {
        let files = render(
            &map(&[("ca.crt", "pem")]),
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "identity.l5d.io", "expirationSeconds": 600}},
                {"configMap": {"name": "m", "items": [{"key": "ca.crt", "path": "tls/ca.pem"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}),
        );
        let files = files.unwrap().unwrap();
        assert_eq!(files[Path::new("token")].0, b"jwt");
        assert_eq!(files[Path::new("tls/ca.pem")].0, b"pem");
        assert_eq!(files[Path::new("namespace")].0, b"ns");
    }

    #[test]
    fn what_is_missing_is_named_and_paths_stay_inside() {
        let missing = render(&map(&[]), json!({"name": "v", "secret": {"secretName": "s"}}));
        assert!(missing.unwrap_err().to_string().contains("\"s\""));
        let optional = render(
            &map(&[]),
            json!({"name": "v", "secret": {"secretName": "s", "optional": true}}),
        );
        assert_eq!(optional.unwrap(), Some(Files::new()));
        let out = render(
            &map(&[("k", "v")]),
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "../../x"}]}}),
        );
        assert!(out.is_err());
    }

    #[test]
    fn a_change_switches_all_files_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = |v: &str| {
            Files::from([("a".into(), (v.into(), 0o644)), ("sub/b".into(), (v.into(), 0o644))])
        };
        write(dir.path(), &files("1")).unwrap();
        assert_eq!(fs::read(dir.path().join("sub/b")).unwrap(), b"1");
        let before = fs::read_link(dir.path().join("..data")).unwrap();
        write(dir.path(), &files("1")).unwrap();
        assert_eq!(fs::read_link(dir.path().join("..data")).unwrap(), before, "nothing changed");
        write(dir.path(), &Files::from([("a".into(), ("2".into(), 0o644))])).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"2");
        assert!(!dir.path().join("sub").exists());
        assert!(!dir.path().join(before).exists());
    }

    #[test]
    fn mounts_are_links_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = dir.path().join("volumes");
        fs::create_dir_all(volumes.join("v")).unwrap();
        fs::write(volumes.join("v/f"), "x").unwrap();
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "/var/run/x"}, {"name": "w", "mountPath": "/var/run/x/inner"}]}))
        .unwrap();
        fs::create_dir_all(volumes.join("w")).unwrap();
        fs::write(volumes.join("w/g"), "y").unwrap();
        let root = dir.path().join("root");
        mount(&root, &volumes, &container, &[]).unwrap();
        mount(&root, &volumes, &container, &[]).unwrap();
        assert_eq!(fs::read(root.join("var/run/x/f")).unwrap(), b"x");
        assert_eq!(fs::read(root.join("var/run/x/inner/g")).unwrap(), b"y");
    }
}
