//! # Embedded charts
//!
//! Job: the charts' files as part of the program, in the order in which they are printed.
//! May touch: `deploy/charts` at build time. Callers: `chart`.

use crate::chart::Chart;

/// A file of a chart: its path as helm names templates, and its text.
pub(crate) struct File {
    pub(crate) path: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! files {
    ($chart:literal: $($path:literal),* $(,)?) => {
        &[$(File {
            path: concat!($chart, "/templates/", $path),
            text: include_str!(concat!("../../../deploy/charts/", $chart, "/templates/", $path)),
        }),*]
    };
}

macro_rules! text {
    ($path:literal) => {
        include_str!(concat!("../../../deploy/charts/", $path))
    };
}

/// Template parts that all charts and the injector share.
pub(crate) const PARTIALS: &[File] =
    files!["partials": "_identity.tpl", "_metadata.tpl", "_proxy.tpl"];

/// CustomResourceDefinitions.
pub const CRDS: Chart = Chart {
    name: "linkerd-crds",
    files: files!["linkerd-crds":
        "_helpers.tpl",
        "policy/authorization-policy.yaml",
        "policy/egress-network.yaml",
        "policy/http-local-ratelimit-policy.yaml",
        "policy/httproute.yaml",
        "policy/meshtls-authentication.yaml",
        "policy/network-authentication.yaml",
        "policy/server-authorization.yaml",
        "policy/server.yaml",
        "serviceprofile.yaml",
        "workload/external-workload.yaml",
    ],
    values: text!("linkerd-crds/values.yaml"),
    ha: "",
};

/// The control plane.
pub const CONTROL_PLANE: Chart = Chart {
    name: "linkerd-control-plane",
    files: files!["linkerd-control-plane":
        "_helpers.tpl",
        "validate.yaml",
        "namespace.yaml",
        "identity-rbac.yaml",
        "destination-rbac.yaml",
        "proxy-injector-rbac.yaml",
        "config.yaml",
        "config-rbac.yaml",
        "identity.yaml",
        "destination.yaml",
        "proxy-injector.yaml",
    ],
    values: text!("linkerd-control-plane/values.yaml"),
    ha: text!("linkerd-control-plane/values-ha.yaml"),
};

/// The multicluster extension.
pub const MULTICLUSTER: Chart = Chart {
    name: "linkerd-multicluster",
    files: files!["linkerd-multicluster":
        "_helpers.tpl",
        "namespace.yaml",
        "gateway.yaml",
        "gateway-policy.yaml",
        "remote-access-service-mirror-rbac.yaml",
        "link-crd.yaml",
        "admin-policy.yaml",
        "service-mirror-rbac.yaml",
        "service-mirror.yaml",
    ],
    values: text!("linkerd-multicluster/values.yaml"),
    ha: text!("linkerd-multicluster/values-ha.yaml"),
};

/// The CNI plugin.
pub const CNI: Chart = Chart {
    name: "linkerd2-cni",
    files: files!["linkerd2-cni":
        "_helpers.tpl",
        "validate.yaml",
        "namespace.yaml",
        "rbac.yaml",
        "config.yaml",
        "daemonset.yaml",
    ],
    values: text!("linkerd2-cni/values.yaml"),
    ha: "",
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    fn on_disk(folder: &Path, found: &mut BTreeSet<String>, root: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                on_disk(&path, found, root);
            } else {
                found.insert(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }

    #[test]
    fn every_template_on_disk_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/charts");
        let lists = [
            ("partials", PARTIALS),
            (CRDS.name, CRDS.files),
            (CONTROL_PLANE.name, CONTROL_PLANE.files),
            (MULTICLUSTER.name, MULTICLUSTER.files),
            (CNI.name, CNI.files),
        ];
        for (chart, files) in lists {
            let mut found = BTreeSet::new();
            on_disk(&root.join(chart).join("templates"), &mut found, &root);
            let embedded: BTreeSet<_> = files.iter().map(|f| f.path.to_owned()).collect();
            assert_eq!(embedded, found, "{chart}");
        }
    }

    #[test]
    fn charts_bear_the_version_of_the_programs() {
        let stamp = format!("linkerdVersion: {}\n", env!("CARGO_PKG_VERSION"));
        for chart in [&CRDS, &CONTROL_PLANE, &MULTICLUSTER, &CNI] {
            assert!(chart.values.contains(&stamp), "{}", chart.name);
        }
    }
}
