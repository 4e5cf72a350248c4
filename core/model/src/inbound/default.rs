//! # Default inbound policies
//!
//! Job: the six policies by name, as the controller and a proxy without a controller apply them.
//! May touch: values. Callers: the policy controller, the inbound proxy, annotations and settings.

use super::{
    Authentication, Authorization, IdentityMatch, InboundRoute, NetworkMatch, ServerPolicy,
    ServerProtocol,
};
use crate::meta::Meta;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// What a port without a Server lets in; also the values of `accessPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultPolicy {
    /// Nobody.
    Deny,
    /// Everybody.
    #[default]
    AllUnauthenticated,
    /// Any mesh identity, from anywhere.
    AllAuthenticated,
    /// Everybody from the cluster's networks.
    ClusterUnauthenticated,
    /// Any mesh identity from the cluster's networks.
    ClusterAuthenticated,
    /// Everybody, with a log line each.
    Audit,
}

/// A text that names no default policy.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a default policy: expected all-unauthenticated, all-authenticated, \
     cluster-unauthenticated, cluster-authenticated, deny or audit"
)]
pub struct InvalidDefaultPolicy(String);

impl DefaultPolicy {
    const ALL: [Self; 6] = [
        Self::Deny,
        Self::AllUnauthenticated,
        Self::AllAuthenticated,
        Self::ClusterUnauthenticated,
        Self::ClusterAuthenticated,
        Self::Audit,
    ];

    /// The name, as in annotations and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::AllUnauthenticated => "all-unauthenticated",
            Self::AllAuthenticated => "all-authenticated",
            Self::ClusterUnauthenticated => "cluster-unauthenticated",
            Self::ClusterAuthenticated => "cluster-authenticated",
            Self::Audit => "audit",
        }
    }

    /// The same reach, with a mesh identity required (for ports that must be authenticated).
    pub fn authenticated(self) -> Self {
        match self {
            Self::AllUnauthenticated | Self::AllAuthenticated | Self::Audit => {
                Self::AllAuthenticated
            }
            Self::ClusterUnauthenticated | Self::ClusterAuthenticated => Self::ClusterAuthenticated,
            Self::Deny => Self::Deny,
        }
    }

    /// The authorization that the policy stands for; none for `deny`.
    pub fn authorization(self, cluster_networks: &[IpNet]) -> Option<Authorization> {
        let (everywhere, authenticated) = match self {
            Self::Deny => return None,
            Self::AllUnauthenticated | Self::Audit => (true, false),
            Self::AllAuthenticated => (true, true),
            Self::ClusterUnauthenticated => (false, false),
            Self::ClusterAuthenticated => (false, true),
        };
        let networks = if everywhere { all_networks() } else { cluster_networks.to_vec() };
        let authentication = if authenticated {
            Authentication::TlsAuthenticated(vec![IdentityMatch::Suffix(Vec::new())])
        } else {
            Authentication::Unauthenticated
        };
        Some(Authorization {
            meta: Meta::built_in(self.as_str()),
            networks: networks
                .into_iter()
                .map(|net| NetworkMatch { net, except: Vec::new() })
                .collect(),
            authentication,
        })
    }

    /// The policy of a port while no controller was heard: `deny` speaks bytes and lets nobody in, not
    /// even loopback; the others sniff.
    pub fn policy(self, cluster_networks: &[IpNet], detect_timeout: Duration) -> ServerPolicy {
        let protocol = match self {
            Self::Deny => ServerProtocol::Opaque,
            _ => ServerProtocol::Detect {
                http: Arc::new([InboundRoute::fallback()]),
                timeout: detect_timeout,
            },
        };
        ServerPolicy {
            meta: Meta::built_in(self.as_str()),
            protocol,
            authorizations: self.authorization(cluster_networks).into_iter().collect(),
            rate_limit: None,
        }
    }

    /// As [`Self::policy`], for a port on which nothing is sniffed.
    pub fn opaque_policy(self, cluster_networks: &[IpNet]) -> ServerPolicy {
        ServerPolicy {
            protocol: ServerProtocol::Opaque,
            ..self.policy(cluster_networks, super::DETECT_TIMEOUT)
        }
    }
}

/// 0.0.0.0/0 and ::/0.
fn all_networks() -> Vec<IpNet> {
    vec![Ipv4Net::default().into(), Ipv6Net::default().into()]
}

impl FromStr for DefaultPolicy {
    type Err = InvalidDefaultPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidDefaultPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        named.ok_or_else(|| InvalidDefaultPolicy(text.chars().take(80).collect()))
    }
}

impl fmt::Display for DefaultPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for policy in DefaultPolicy::ALL {
            assert_eq!(policy.to_string().parse::<DefaultPolicy>().unwrap(), policy);
        }
        assert!("Deny".parse::<DefaultPolicy>().is_err());
    }
}
