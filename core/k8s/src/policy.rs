//! # Policy objects
//!
//! Job: the `policy.linkerd.io` kinds that inbound policy reads.
//! May touch: serde. Must not touch: meaning; the policy index decides.
//! Callers: `policy`, `destination` (opaque Servers), the CLI's check.

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// API group of policy objects.
pub const GROUP: &str = "policy.linkerd.io";

/// A port of selected workloads, with its protocol and what holds without an authorization.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1beta3",
    kind = "Server",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ServerSpec {
    /// Pods, if set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Workloads outside the cluster, if set. Exactly one of the two selectors is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_workload_selector: Option<LabelSelector>,
    /// Number, or a container port's name.
    pub port: IntOrString,
    /// `unknown` (detect), `HTTP/1`, `HTTP/2`, `gRPC`, `opaque`, `TLS`; absent: `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// Name of a default policy; absent: `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_policy: Option<String>,
}

/// Old form: who may talk to one or more Servers.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1beta1",
    kind = "ServerAuthorization",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ServerAuthorizationSpec {
    /// Which Servers.
    pub server: ServerChoice,
    /// Which clients.
    pub client: ClientChoice,
}

/// One Server by name, or several by labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerChoice {
    /// Name in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Clients of a ServerAuthorization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientChoice {
    /// Allowed networks; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Network>>,
    /// True: without TLS too.
    pub unauthenticated: bool,
    /// Mesh TLS demands.
    #[serde(rename = "meshTLS", skip_serializing_if = "Option::is_none")]
    pub mesh_tls: Option<MeshTlsClients>,
}

/// Mesh TLS part of a [`ClientChoice`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshTlsClients {
    /// True: TLS without a client certificate is enough.
    #[serde(rename = "unauthenticatedTLS")]
    pub unauthenticated_tls: bool,
    /// Identities, `*` and `*.suffix` allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<String>>,
    /// Service accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<Vec<ServiceAccountRef>>,
}

/// A service account; without namespace: the object's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountRef {
    /// Name.
    pub name: String,
    /// Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A target, and the authentications that a client must all satisfy.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// Server, route or Namespace.
    pub target_ref: Reference,
    /// May be empty: anybody.
    #[serde(default)]
    pub required_authentication_refs: Vec<Reference>,
}

/// A reference to an object. Absent or empty group means `core`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// API group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; absent: the referring object's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Reference {
    /// True if this names the kind: group and kind compare without case, and an absent or empty group
    /// equals `core` (so `expected_group` of core kinds is `""` or `core`).
    pub fn is(&self, expected_group: &str, expected_kind: &str) -> bool {
        let core = |g: &str| if g.is_empty() { "core".to_owned() } else { g.to_ascii_lowercase() };
        core(self.group.as_deref().unwrap_or_default()) == core(expected_group)
            && self.kind.eq_ignore_ascii_case(expected_kind)
    }
}

/// Clients by mesh identity.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1alpha1",
    kind = "MeshTLSAuthentication",
    plural = "meshtlsauthentications",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshTLSAuthenticationSpec {
    /// Identities, `*` and `*.suffix` allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<String>>,
    /// ServiceAccounts or Namespaces. Exactly one of the two lists is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_refs: Option<Vec<Reference>>,
}

/// Clients by address.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "policy.linkerd.io",
    version = "v1alpha1",
    kind = "NetworkAuthentication",
    plural = "networkauthentications",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
pub struct NetworkAuthenticationSpec {
    /// Allowed networks.
    #[serde(default)]
    pub networks: Vec<Network>,
}

/// A network less some of its parts. Text on the wire: a CIDR, or an IP, which is a host network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Network {
    /// CIDR or IP.
    pub cidr: String,
    /// CIDRs or IPs inside of it that are not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
}

impl Network {
    /// The network and its exceptions, parsed; `None` if any text is neither CIDR nor IP.
    pub fn parse(&self) -> Option<(ipnet::IpNet, Vec<ipnet::IpNet>)> {
        let except = self.except.iter().flatten().map(|t| net(t)).collect::<Option<_>>()?;
        Some((net(&self.cidr)?, except))
    }
}

fn net(text: &str) -> Option<ipnet::IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource;
    use serde_json::json;

    #[test]
    fn kinds_have_the_plurals_of_the_crds() {
        assert_eq!(Server::plural(&()), "servers");
        assert_eq!(AuthorizationPolicy::plural(&()), "authorizationpolicies");
        assert_eq!(MeshTLSAuthentication::plural(&()), "meshtlsauthentications");
        assert_eq!(NetworkAuthentication::plural(&()), "networkauthentications");
        assert_eq!(ServerAuthorization::plural(&()), "serverauthorizations");
        assert_eq!(Server::api_version(&()), "policy.linkerd.io/v1beta3");
    }

    #[test]
    fn references_compare_without_case_and_default_to_core() {
        let r = Reference { kind: "serviceaccount".into(), ..Reference::default() };
        assert!(
            r.is("", "ServiceAccount")
                && r.is("core", "ServiceAccount")
                && !r.is("apps", "ServiceAccount")
        );
    }

    #[test]
    fn servers_take_port_names_and_numbers() {
        for port in [json!(80), json!("http")] {
            let spec: ServerSpec =
                serde_json::from_value(json!({"podSelector": {}, "port": port})).unwrap();
            assert_eq!(serde_json::to_value(spec).unwrap()["port"], port);
        }
    }

    #[test]
    fn networks_take_ips_as_hosts() {
        let of =
            |c: &str| Network { cidr: c.into(), except: None }.parse().map(|n| n.0.to_string());
        assert_eq!(of("10.0.0.1"), Some("10.0.0.1/32".into()));
        assert_eq!(of("::/0"), Some("::/0".into()));
        assert_eq!(of("10.0.0.0/99"), None);
    }
}
