//! # Object names
//!
//! Job: fixed names of objects, ports, types and the naming rules of derived ones.
//! May touch: text. Must not touch: anything else.
//! Callers: the mirror, the CLI, the control plane.

/// Default namespace of the control plane.
pub const CONTROL_NAMESPACE: &str = "linkerd";
/// Default namespace of the multicluster extension.
pub const MULTICLUSTER_NAMESPACE: &str = "linkerd-multicluster";
/// Default name of the gateway's Deployment, Service and ServiceAccount.
pub const GATEWAY: &str = "linkerd-gateway";
/// Deployment that mirrors for all Links.
pub const SERVICE_MIRROR: &str = "linkerd-service-mirror";
/// Default ServiceAccount that an importing cluster uses in the exporting one.
pub const REMOTE_ACCESS: &str = "linkerd-service-mirror-remote-access-default";
/// ConfigMap with the control plane's values (key `values`).
pub const CONFIG: &str = "linkerd-config";
/// ConfigMap with the trust anchors (key `ca-bundle.crt`).
pub const TRUST_ROOTS: &str = "linkerd-identity-trust-roots";
/// Secret with the identity issuer.
pub const ISSUER: &str = "linkerd-identity-issuer";
/// Name of the proxy's container.
pub const PROXY_CONTAINER: &str = "linkerd-proxy";
/// Type of credentials Secrets.
pub const CREDENTIALS_TYPE: &str = "mirror.linkerd.io/remote-kubeconfig";
/// Data key of credentials Secrets.
pub const CREDENTIALS_KEY: &str = "kubeconfig";
/// Type of ServiceAccount token Secrets.
pub const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// Gateway Service's port for traffic.
pub const GATEWAY_PORT: &str = "mc-gateway";
/// Gateway Service's port for probes.
pub const PROBE_PORT: &str = "mc-probe";
/// `controllerName` in a Link's status.
pub const STATUS_CONTROLLER: &str = "linkerd.io/service-mirror";
/// Condition type in a Link's status.
pub const MIRRORED: &str = "Mirrored";

/// `<svc>-<cluster>`: the mirror of a Service.
pub fn mirror(service: &str, cluster: &str) -> String {
    format!("{service}-{cluster}")
}

/// `<svc>-federated`.
pub fn federated(service: &str) -> String {
    format!("{service}-federated")
}

/// `cluster-credentials-<cluster>`: the credentials Secret, in both namespaces.
pub fn credentials(cluster: &str) -> String {
    format!("cluster-credentials-{cluster}")
}

/// `service-mirror-write-<link>`: the Lease of whoever writes a Link's mirrors.
pub fn lease(link: &str) -> String {
    format!("{LEASE_PREFIX}{link}")
}

/// Prefix of [`lease`].
pub const LEASE_PREFIX: &str = "service-mirror-write-";

/// `probe-<link>`: the probe Service of a controller that serves one Link.
pub fn probe(link: &str) -> String {
    format!("probe-{link}")
}
