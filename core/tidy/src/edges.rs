//! # Edges between rooms
//!
//! Job: an arrow points down, rooms of one layer are strangers, and some rooms never meet.
//! May touch: nothing; it judges what `workspace` read. Callers: main.

use crate::{
    Finding,
    workspace::{Dependency, Layer, Package},
};

/// Kubernetes-side crates that the data plane must build and run without.
const CONTROL_SIDE: [&str; 10] = [
    "kube",
    "k8s-openapi",
    "mesh-k8s",
    "mesh-cluster",
    "mesh-charts",
    "mesh-identity",
    "mesh-destination",
    "mesh-policy",
    "mesh-injector",
    "mesh-sandbox",
];

/// What the innermost room must do without.
const IMPURE: [&str; 6] = ["tokio", "kube", "tonic", "hyper", "k8s-openapi", "linkerd2-proxy-api"];

/// All broken edges.
pub(crate) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(|package| check_package(package, packages)).collect()
}

fn check_package(package: &Package, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if package.layer == Layer::Missing {
        findings.push(format!("{} has no [package.metadata.mesh] layer", package.folder));
    }
    let data_side = package.folder.starts_with("proxy/") || package.folder == "gateway";
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        findings.extend(check_layer(package, dependency, packages));
        if data_side && !dependency.dev && CONTROL_SIDE.contains(&name) {
            findings.push(format!(
                "{} depends on {name}: the data plane builds without Kubernetes",
                package.folder
            ));
        }
        if package.name == "mesh-model" && IMPURE.contains(&name) {
            findings.push(format!("core/model depends on {name}: it has no I/O and no async"));
        }
        if name == "mesh-sandbox"
            && !dependency.dev
            && package.name != "mesh-cli"
            && package.layer != Layer::Tool
        {
            findings.push(format!(
                "{} depends on mesh-sandbox outside of tests: only core/cli may",
                package.folder
            ));
        }
    }
    findings
}

fn check_layer(
    package: &Package,
    dependency: &Dependency,
    packages: &[Package],
) -> Option<Finding> {
    let target = packages.iter().find(|p| p.name == dependency.name)?;
    match (package.layer, target.layer) {
        (Layer::Tool, _) => None,
        (_, Layer::Tool) => {
            Some(format!("{} depends on the tool {}", package.folder, target.folder))
        }
        // Tests may bring a room of any layer as the other end of a conversation.
        _ if dependency.dev => None,
        (Layer::Room(from), Layer::Room(to)) if to >= from => Some(format!(
            "{} (layer {from}) depends on {} (layer {to}): an arrow may only point down",
            package.folder, target.folder
        )),
        _ => None,
    }
}
