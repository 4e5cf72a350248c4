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

/// On a Service or EgressNetwork: `p2c-peak-ewma`, `p2c-least-loaded` or `round-robin`.
pub const BALANCER_ALGORITHM: &str = "balancer.linkerd.io/algorithm";
/// On the same: a new endpoint's share grows over this time.
pub const BALANCER_SLOW_START: &str = "balancer.linkerd.io/slow-start";
/// On the same: `consecutive` or `unified`; without it no endpoint counts as broken.
pub const FAILURE_ACCRUAL: &str = "balancer.linkerd.io/failure-accrual";
/// On the same: so many failures in a row break an endpoint.
pub const ACCRUAL_MAX_FAILURES: &str =
    "balancer.linkerd.io/failure-accrual-consecutive-max-failures";
/// On the same: how long a broken endpoint is left alone at first.
pub const ACCRUAL_MIN_PENALTY: &str = "balancer.linkerd.io/failure-accrual-consecutive-min-penalty";
/// On the same: how long at most.
pub const ACCRUAL_MAX_PENALTY: &str = "balancer.linkerd.io/failure-accrual-consecutive-max-penalty";
/// On the same: how much of that is added at random, 0 to 100.
pub const ACCRUAL_JITTER: &str = "balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio";
/// On the same: so many endpoints never count as broken.
pub const ACCRUAL_MIN_READY: &str = "balancer.linkerd.io/failure-accrual-min-ready";
/// On the same, unified: the success rate below which an endpoint breaks, 0 to 1.
pub const ACCRUAL_THRESHOLD: &str =
    "balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold";
/// On the same, unified: the time over which the rate is taken.
pub const ACCRUAL_WINDOW: &str = "balancer.alpha.linkerd.io/failure-accrual-success-rate-window";
/// On the same, unified: not before so many requests.
pub const ACCRUAL_MIN_REQUESTS: &str =
    "balancer.alpha.linkerd.io/failure-accrual-success-rate-min-requests";
/// On the same, unified: `true` heeds `retry-after`.
pub const ACCRUAL_RETRY_AFTER: &str = "balancer.alpha.linkerd.io/failure-accrual-honor-retry-after";
/// On a Service: `true` makes endpoints that fail seem slow.
pub const PENALIZE_FAILURES: &str = "balancer.alpha.linkerd.io/penalize-failures";
/// On a Service: how slow.
pub const LOAD_BIASER_PENALTY: &str = "balancer.alpha.linkerd.io/load-biaser-penalty";
/// On a Service: the longest `retry-after` that is heeded.
pub const LOAD_BIASER_MAX_RETRY_AFTER: &str =
    "balancer.alpha.linkerd.io/load-biaser-max-retry-after";

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
