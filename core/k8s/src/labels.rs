//! # Labels
//!
//! Job: the keys (and fixed values) of every label that the mesh reads or writes.
//! May touch: text. Must not touch: anything else.
//! Callers: indexes, the mirror, the injector, the CLI.

/// Marks every object of the control plane and every meshed Pod; value: the control plane's namespace.
pub const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";
/// Which part of the control plane an object belongs to.
pub const CONTROL_PLANE_COMPONENT: &str = "linkerd.io/control-plane-component";
/// `true` on the control plane's namespace.
pub const IS_CONTROL_PLANE: &str = "linkerd.io/is-control-plane";
/// Namespace of a meshed Pod.
pub const WORKLOAD_NS: &str = "linkerd.io/workload-ns";
/// Prefix of the label with a meshed Pod's owner: `linkerd.io/proxy-<owner kind>`.
pub const PROXY_OWNER_PREFIX: &str = "linkerd.io/proxy-";
/// Name of the extension that owns an object.
pub const EXTENSION: &str = "linkerd.io/extension";
/// Marks the CNI plugin's objects.
pub const CNI_RESOURCE: &str = "linkerd.io/cni-resource";
/// Part of an extension (`gateway`, `controller`, ...).
pub const COMPONENT: &str = "component";

/// Value of [`EXTENSION`] for multicluster.
pub const EXTENSION_MULTICLUSTER: &str = "multicluster";
/// Value of [`EXTENSION`] that old installs carry.
pub const EXTENSION_MULTICLUSTER_LEGACY: &str = "linkerd-multicluster";

/// Exports a Service: `true` through the gateway, `remote-discovery` Pod to Pod.
pub const EXPORTED: &str = "mirror.linkerd.io/exported";
/// `member`: joins the federated Service of its name.
pub const FEDERATED: &str = "mirror.linkerd.io/federated";
/// `true` on whatever a mirror has created.
pub const MIRRORED_SERVICE: &str = "mirror.linkerd.io/mirrored-service";
/// The exporting cluster's name, on mirrors, probes and per-Link controllers.
pub const MIRROR_CLUSTER_NAME: &str = "mirror.linkerd.io/cluster-name";
/// `true` on probe Services.
pub const MIRRORED_GATEWAY: &str = "mirror.linkerd.io/mirrored-gateway";
/// On endpoint mirrors: name of the headless mirror that they belong to.
pub const HEADLESS_MIRROR: &str = "mirror.linkerd.io/headless-mirror-svc-name";
/// Keys with this prefix are never copied to a mirror.
pub const MIRROR_PREFIX: &str = "mirror.linkerd.io/";
/// On flat mirrors: the exporting cluster.
pub const REMOTE_DISCOVERY: &str = "multicluster.linkerd.io/remote-discovery";
/// On flat mirrors: the exported Service's name.
pub const REMOTE_SERVICE: &str = "multicluster.linkerd.io/remote-service";
/// On the control plane's credentials Secret: the cluster that it opens.
pub const SECRET_CLUSTER_NAME: &str = "multicluster.linkerd.io/cluster-name";

/// Kubernetes: the Service of an EndpointSlice.
pub const SLICE_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Kubernetes: present on Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Kubernetes: a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Kubernetes: template hash of a ReplicaSet's Pods.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
