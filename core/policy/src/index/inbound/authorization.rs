//! # Authorizations
//!
//! Job: parse AuthorizationPolicies and the authentications that they demand; put both together into
//! what a proxy checks.
//! May touch: object types, values. Callers: the inbound index.

use crate::index::ObjectName;
use mesh_k8s::policy::{
    self, AuthorizationPolicy, GROUP, MeshTLSAuthentication, NetworkAuthentication, Reference,
};
use mesh_model::{
    identity::Identity,
    inbound::{Authentication, Authorization, IdentityMatch, NetworkMatch},
    meta::{Meta, Resource},
};
use std::collections::BTreeMap;

/// What matters of an AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyInfo {
    pub(crate) target: Target,
    required: Vec<Required>,
}

/// What a policy is about. Routes have their place here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Server of the policy's namespace.
    Server(String),
    /// Every Server of the policy's namespace.
    Namespace,
    /// A kind that is not enforced yet, or another namespace.
    Other,
}

/// One demand on a client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Required {
    Mesh(ObjectName),
    Network(ObjectName),
    Account(ObjectName),
    /// A kind that authenticates nobody.
    Unknown(String),
}

/// The authentications of a cluster, by name.
#[derive(Default)]
pub(crate) struct Authentications {
    pub(crate) mesh: BTreeMap<ObjectName, Vec<IdentityMatch>>,
    pub(crate) network: BTreeMap<ObjectName, Vec<NetworkMatch>>,
}

/// Parts of identities.
#[derive(Clone, Copy)]
pub(crate) struct IdentityDomain<'a> {
    pub(crate) control_namespace: &'a str,
    pub(crate) trust_domain: &'a str,
}

impl PolicyInfo {
    pub(crate) fn parse(object: &AuthorizationPolicy) -> Self {
        let own = object.metadata.namespace.clone().unwrap_or_default();
        let target = &object.spec.target_ref;
        let here = target.namespace.as_ref().is_none_or(|ns| *ns == own);
        let target = match () {
            () if target.is(GROUP, "Server") && here => Target::Server(target.name.clone()),
            () if target.is("", "Namespace") && target.name == own => Target::Namespace,
            () => Target::Other,
        };
        let required = |r: &Reference| {
            let at = (r.namespace.clone().unwrap_or_else(|| own.clone()), r.name.clone());
            match () {
                () if r.is(GROUP, "MeshTLSAuthentication") => Required::Mesh(at),
                () if r.is(GROUP, "NetworkAuthentication") => Required::Network(at),
                () if r.is("", "ServiceAccount") => Required::Account(at),
                () => Required::Unknown(r.kind.clone()),
            }
        };
        let required = object.spec.required_authentication_refs.iter().map(required).collect();
        Self { target, required }
    }

    /// The part of the policy that has no effect here, or lets nobody in, if there is one.
    pub(crate) fn unenforced(&self, target: &Reference) -> Option<String> {
        if self.target == Target::Other {
            let place = target.namespace.as_ref().map(|ns| format!(" in {ns}")).unwrap_or_default();
            return Some(format!("target {} {}{place}", target.kind, target.name));
        }
        self.required.iter().find_map(|required| match required {
            Required::Unknown(kind) => Some(format!("authentication {kind}")),
            _ => None,
        })
    }

    /// The authorization that the policy stands for, or why it stands for none. A policy that cannot be
    /// understood in full lets nobody in: obeying half of it would let in too many.
    pub(crate) fn authorization(
        &self,
        name: &str,
        known: &Authentications,
        domain: IdentityDomain<'_>,
        everywhere: &[NetworkMatch],
    ) -> Result<Authorization, String> {
        let mut identities: Option<Vec<IdentityMatch>> = None;
        let mut networks: Option<Vec<NetworkMatch>> = None;
        for required in &self.required {
            match required {
                Required::Mesh(at) => {
                    let found =
                        known.mesh.get(at).ok_or_else(|| missing("MeshTLSAuthentication", at))?;
                    once("identities", &mut identities, found.clone())?;
                }
                Required::Account(at) => {
                    let found = vec![IdentityMatch::Exact(domain.account(at)?)];
                    once("identities", &mut identities, found)?;
                }
                Required::Network(at) => {
                    let found = known
                        .network
                        .get(at)
                        .ok_or_else(|| missing("NetworkAuthentication", at))?;
                    once("networks", &mut networks, found.clone())?;
                }
                Required::Unknown(kind) => return Err(format!("{kind} authenticates nobody")),
            }
        }
        let networks = networks.unwrap_or_else(|| everywhere.to_vec());
        if networks.is_empty() {
            return Err("its NetworkAuthentication has no network".into());
        }
        let resource = Resource {
            group: GROUP.to_owned(),
            kind: "authorizationpolicy".to_owned(),
            name: name.to_owned(),
            ..Resource::default()
        };
        Ok(Authorization {
            meta: Meta::Resource(resource.into()),
            networks,
            authentication: identities
                .map_or(Authentication::Unauthenticated, Authentication::TlsAuthenticated),
        })
    }
}

fn missing(kind: &str, (namespace, name): &ObjectName) -> String {
    format!("{kind} {namespace}/{name} does not exist")
}

fn once<T>(what: &str, slot: &mut Option<T>, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("it demands {what} more than once")),
    }
}

impl IdentityDomain<'_> {
    fn account(&self, (namespace, name): &ObjectName) -> Result<Identity, String> {
        Identity::of_service_account(name, namespace, self.control_namespace, self.trust_domain)
            .map_err(|e| format!("ServiceAccount {namespace}/{name}: {e}"))
    }

    /// Identities of a MeshTLSAuthentication. One that is malformed is left out and matches nobody.
    pub(crate) fn identities(self, object: &MeshTLSAuthentication) -> Vec<IdentityMatch> {
        let own = object.metadata.namespace.as_deref().unwrap_or_default();
        let named = object.spec.identities.iter().flatten().map(|text| pattern(text));
        let refs = object.spec.identity_refs.iter().flatten().map(|r| self.reference(r, own));
        let keep = |pattern: Result<IdentityMatch, String>| match pattern {
            Ok(pattern) => Some(pattern),
            Err(reason) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(namespace = own, name, reason, "identity left out");
                None
            }
        };
        named.chain(refs).filter_map(keep).collect()
    }

    fn reference(self, r: &Reference, own: &str) -> Result<IdentityMatch, String> {
        if r.is("", "ServiceAccount") {
            let namespace = r.namespace.clone().unwrap_or_else(|| own.to_owned());
            return self.account(&(namespace, r.name.clone())).map(IdentityMatch::Exact);
        }
        if r.is("", "Namespace") {
            let suffix = format!(
                "{}.serviceaccount.identity.{}.{}",
                r.name, self.control_namespace, self.trust_domain
            );
            return Ok(IdentityMatch::Suffix(suffix.split('.').map(str::to_owned).collect()));
        }
        Err(format!("{} is not a source of identities", r.kind))
    }
}

/// `*`, `*.suffix`, or one identity.
fn pattern(text: &str) -> Result<IdentityMatch, String> {
    if text == "*" {
        return Ok(IdentityMatch::Suffix(Vec::new()));
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        let name = suffix.parse::<mesh_model::identity::DnsName>();
        let name = name.map_err(|e| format!("{text}: {e}"))?;
        return Ok(IdentityMatch::Suffix(name.labels().map(str::to_owned).collect()));
    }
    text.parse().map(IdentityMatch::Exact).map_err(|e| format!("{text}: {e}"))
}

/// Networks of a NetworkAuthentication. One whose text is wrong, or whose exceptions are, is left out:
/// without its exceptions it would let in too many.
pub(crate) fn networks(object: &NetworkAuthentication) -> Vec<NetworkMatch> {
    let parse = |network: &policy::Network| match network.parse() {
        Some((net, except)) => Some(NetworkMatch { net, except }),
        None => {
            let (ns, name) = (&object.metadata.namespace, &object.metadata.name);
            tracing::warn!(?ns, ?name, cidr = network.cidr, "network left out: it does not parse");
            None
        }
    };
    object.spec.networks.iter().filter_map(parse).collect()
}
