//! # What is in which image
//!
//! Job: the table of images: name, files, user, entry point, size limit. Paths are those that Linkerd's images
//! have, so that charts and injectors of either side can use them.
//! May touch: nothing. Callers: `main`.

/// An image.
pub(crate) struct Recipe {
    /// Name of the archive, and last part of the image's name.
    pub(crate) name: &'static str,
    /// Registry and folder instead of those of the command line.
    pub(crate) fixed: Option<&'static str>,
    pub(crate) user: u32,
    pub(crate) entrypoint: &'static str,
    /// Largest compressed size, in bytes.
    pub(crate) limit: usize,
    pub(crate) files: &'static [File],
}

/// A file of an image.
pub(crate) struct File {
    /// Path without the leading slash.
    pub(crate) path: &'static str,
    pub(crate) from: Source,
}

/// Where a file comes from.
pub(crate) enum Source {
    /// An executable of this workspace.
    Binary(&'static str),
    /// As `Binary`, with the right to change the Pod's network where the container is given it.
    NetworkBinary(&'static str),
    /// A link to the file of this name, as it is read from the link's folder.
    Link(&'static str),
}

const fn file(path: &'static str, from: Source) -> File {
    File { path, from }
}

/// All images.
pub(crate) const RECIPES: [Recipe; 4] = [
    Recipe {
        name: "proxy",
        fixed: None,
        user: 2102,
        entrypoint: "/usr/lib/linkerd/linkerd2-proxy-identity",
        limit: 8_000_000,
        files: &[
            file("bin/sleep", Source::Link("../usr/lib/linkerd/linkerd2-proxy")),
            file("usr/lib/linkerd/linkerd-await", Source::Link("linkerd2-proxy")),
            file("usr/lib/linkerd/linkerd2-network-validator", Source::Link("linkerd2-proxy-init")),
            file("usr/lib/linkerd/linkerd2-proxy", Source::Binary("mesh-proxy")),
            file("usr/lib/linkerd/linkerd2-proxy-identity", Source::Link("linkerd2-proxy")),
            file("usr/lib/linkerd/linkerd2-proxy-init", Source::NetworkBinary("mesh-init")),
        ],
    },
    Recipe {
        name: "controller",
        fixed: None,
        user: 2103,
        entrypoint: "/controller",
        limit: 15_000_000,
        files: &[file("controller", Source::Binary("mesh-control-plane"))],
    },
    Recipe {
        name: "cni-plugin",
        fixed: None,
        // The node's folders are root's.
        user: 0,
        entrypoint: "/install-cni",
        limit: 8_000_000,
        files: &[
            file("install-cni", Source::Link("opt/cni/bin/linkerd-cni")),
            file("opt/cni/bin/linkerd-cni", Source::Binary("mesh-cni")),
        ],
    },
    Recipe {
        name: "demo",
        fixed: Some("docker.io/mesh"),
        user: 65534,
        entrypoint: "/mesh-demo",
        limit: 8_000_000,
        files: &[file("mesh-demo", Source::Binary("mesh-demo"))],
    },
];

/// Users that images and charts name: a runtime looks up their group here.
pub(crate) const PASSWD: &str = "\
root:x:0:0::/:
proxy:x:2102:2102::/:
control:x:2103:2103::/:
nobody:x:65534:65534::/:
";

/// The executables that go into images.
pub(crate) fn binaries() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().flat_map(|recipe| recipe.files).filter_map(|file| match file.from {
        Source::Binary(name) | Source::NetworkBinary(name) => Some(name),
        Source::Link(_) => None,
    })
}

/// The packages that they are built from: each of the name of its executable, but for the one that has two.
pub(crate) fn packages() -> Vec<&'static str> {
    let mut names: Vec<_> =
        binaries().map(|name| if name == "mesh-cni" { "mesh-init" } else { name }).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Component, Path, PathBuf};

    /// A link that leads nowhere would be found by a Pod only.
    #[test]
    fn links_and_entry_points_lead_to_executables() {
        for recipe in &RECIPES {
            let has = |path: &Path| recipe.files.iter().any(|file| Path::new(file.path) == path);
            assert!(has(Path::new(recipe.entrypoint.trim_start_matches('/'))), "{}", recipe.name);
            for file in recipe.files {
                if let Source::Link(target) = file.from {
                    let mut path = PathBuf::from(file.path);
                    path.pop();
                    for part in Path::new(target).components() {
                        match part {
                            Component::ParentDir => assert!(path.pop()),
                            part => path.push(part),
                        }
                    }
                    assert!(
                        has(&path),
                        "{} of {} leads to {}",
                        file.path,
                        recipe.name,
                        path.display()
                    );
                }
            }
        }
    }

    /// An archive is the same on every run only if its order is.
    #[test]
    fn files_are_sorted() {
        for recipe in &RECIPES {
            assert!(recipe.files.is_sorted_by_key(|file| file.path), "{}", recipe.name);
        }
    }
}
