//! # Annotations
//!
//! Job: the keys of every annotation that more than one room reads or writes.
//! May touch: text. Must not touch: anything else.
//! Callers: indexes, the mirror, the injector, the CLI.

/// Who printed an object: `linkerd/cli <version>`, `linkerd/helm <version>`.
pub const CREATED_BY: &str = "linkerd.io/created-by";
/// Version of the injected proxy.
pub const PROXY_VERSION: &str = "linkerd.io/proxy-version";
/// Whether Pods get a sidecar: `enabled`, `disabled`, `ingress`.
pub const INJECT: &str = "linkerd.io/inject";
/// Hex SHA-256 of the trust anchors that a Pod was given.
pub const TRUST_ROOT_SHA256: &str = "linkerd.io/trust-root-sha256";
/// Prefix of the proxy's settings.
pub const CONFIG_PREFIX: &str = "config.linkerd.io/";
/// Ports that are carried as opaque TCP.
pub const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";
/// Ports that inbound redirection leaves alone.
pub const SKIP_INBOUND_PORTS: &str = "config.linkerd.io/skip-inbound-ports";
/// Ports that outbound redirection leaves alone.
pub const SKIP_OUTBOUND_PORTS: &str = "config.linkerd.io/skip-outbound-ports";
/// Ports that accept mesh clients only.
pub const REQUIRE_IDENTITY_PORTS: &str = "config.linkerd.io/proxy-require-identity-inbound-ports";
/// Policy of ports without a Server.
pub const DEFAULT_INBOUND_POLICY: &str = "config.linkerd.io/default-inbound-policy";
/// `true`: the proxy may serve as a gateway.
pub const ENABLE_GATEWAY: &str = "config.linkerd.io/enable-gateway";
/// `disabled` on namespaces that admission webhooks leave alone (a label, read as both).
pub const ADMISSION_WEBHOOKS: &str = "config.linkerd.io/admission-webhooks";

/// Name of the exported Service in its own cluster: `<svc>.<ns>.svc.<domain>`.
pub const REMOTE_FQ_NAME: &str = "mirror.linkerd.io/remote-svc-fq-name";
/// resourceVersion of the exported Service that a mirror was made from.
pub const REMOTE_RESOURCE_VERSION: &str = "mirror.linkerd.io/remote-resource-version";
/// Mesh identity of the gateway behind mirror Endpoints.
pub const REMOTE_GATEWAY_IDENTITY: &str = "mirror.linkerd.io/remote-gateway-identity";
/// On a gateway Service: its mesh identity.
pub const GATEWAY_IDENTITY: &str = "mirror.linkerd.io/gateway-identity";
/// On a gateway Service: seconds between probes.
pub const PROBE_PERIOD: &str = "mirror.linkerd.io/probe-period";
/// On a gateway Service: path to probe.
pub const PROBE_PATH: &str = "mirror.linkerd.io/probe-path";
/// On a gateway Service: `true`, for information.
pub const MULTICLUSTER_GATEWAY: &str = "mirror.linkerd.io/multicluster-gateway";
/// On a gateway Service: label selector of the Services that the gateway lets through.
pub const GATEWAY_EXPORT: &str = "mesh.linkerd.io/gateway-export";
/// On a credentials Secret: the exporting cluster's identity trust domain.
pub const TRUST_DOMAIN: &str = "multicluster.linkerd.io/trust-domain";
/// On a credentials Secret: the exporting cluster's DNS domain.
pub const CLUSTER_DOMAIN: &str = "multicluster.linkerd.io/cluster-domain";
/// On a federated Service: comma list of `<svc>@<cluster>`.
pub const REMOTE_DISCOVERY: &str = "multicluster.linkerd.io/remote-discovery";
/// On a federated Service: the local member.
pub const LOCAL_DISCOVERY: &str = "multicluster.linkerd.io/local-discovery";

/// On a Link's Lease: `true` or `false`, whether its gateway answers probes.
pub const GATEWAY_ALIVE: &str = "mesh.linkerd.io/gateway-alive";
/// On a Link's Lease: latency of the last good probe, milliseconds.
pub const GATEWAY_LATENCY_MS: &str = "mesh.linkerd.io/gateway-latency-ms";
/// On a Link's Lease: why the last probe failed; absent while it succeeds.
pub const GATEWAY_ERROR: &str = "mesh.linkerd.io/gateway-error";
/// On a Link's Lease: why the Link is not being mirrored (credentials, API); absent while it is.
pub const LINK_ERROR: &str = "mesh.linkerd.io/link-error";

/// Kubernetes: on a ServiceAccount token Secret, its account.
pub const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Kubernetes: topology hints (old key).
pub const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// Kubernetes: topology mode.
pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// kubectl: last applied configuration; describes another object than a mirror, so never copied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
