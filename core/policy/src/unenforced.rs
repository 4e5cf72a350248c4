//! # What is not enforced yet
//!
//! Job: name the kinds, and the parts of known kinds, that this control plane accepts in the cluster but
//! does not obey, so that `check` can warn by name instead of leaving a user to believe in them.
//! May touch: names. Callers: `cli`.

use crate::index::inbound::authorization::PolicyInfo;
use mesh_k8s::policy::{AuthorizationPolicy, GROUP};

/// A kind whose objects have no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnenforcedKind {
    /// API group.
    pub group: &'static str,
    /// Version to list.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> UnenforcedKind {
    UnenforcedKind { group, version, kind, plural }
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// Kinds whose objects nothing here enforces yet. A kind that the API server does not serve has none.
pub fn unenforced_kinds() -> &'static [UnenforcedKind] {
    const KINDS: &[UnenforcedKind] = &[
        kind(GROUP, "v1beta1", "ServerAuthorization", "serverauthorizations"),
        kind(GROUP, "v1beta3", "HTTPRoute", "httproutes"),
        kind(GROUP, "v1alpha1", "EgressNetwork", "egressnetworks"),
        kind(GROUP, "v1alpha1", "HTTPLocalRateLimitPolicy", "httplocalratelimitpolicies"),
        kind(GATEWAY_API, "v1", "HTTPRoute", "httproutes"),
        kind(GATEWAY_API, "v1", "GRPCRoute", "grpcroutes"),
        kind(GATEWAY_API, "v1alpha2", "TLSRoute", "tlsroutes"),
        kind(GATEWAY_API, "v1alpha2", "TCPRoute", "tcproutes"),
        kind("linkerd.io", "v1alpha2", "ServiceProfile", "serviceprofiles"),
        kind("workload.linkerd.io", "v1beta1", "ExternalWorkload", "externalworkloads"),
    ];
    KINDS
}

/// What of an AuthorizationPolicy is not enforced: a target that is neither a Server beside it nor its own
/// namespace, or an authentication of a kind that lets nobody in.
pub fn unenforced_part(policy: &AuthorizationPolicy) -> Option<String> {
    PolicyInfo::parse(policy).unenforced(&policy.spec.target_ref)
}
