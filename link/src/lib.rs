//! # Link
//!
//! Job: what the importing cluster knows of an exporting one: the Link parsed into types, the
//! credentials, the gateway's addresses, and whether the gateway answers.
//! May touch: DNS, the gateway's admin port, the exporting cluster's API server. Must not touch: mirrors.
//! Callers: `mirror`, the CLI.

pub mod addresses;
pub mod credentials;
mod duration;
mod parse;
pub mod probe;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use mesh_k8s::selector::{self, Labels};
use mesh_model::identity::{DnsName, Identity};
use std::{fmt, net::IpAddr, num::NonZeroU16, time::Duration};

/// A Link whose every field has been understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The Link object's namespace.
    pub namespace: String,
    /// The Link object's name.
    pub name: String,
    /// The exporting cluster's name: suffix of mirrors and value of labels.
    pub cluster: String,
    /// DNS domain of the exporting cluster.
    pub domain: DnsName,
    /// Control-plane namespace of the exporting cluster.
    pub control_namespace: String,
    /// Secret with the kubeconfig, in the Link's namespace.
    pub credentials_secret: String,
    /// How the exporting cluster's gateway is reached, if there is one.
    pub gateway: Option<Gateway>,
    /// Which Services are mirrored, and how.
    pub selectors: Selectors,
    /// Annotations that are not copied.
    pub excluded_annotations: Exclusions,
    /// Labels that are not copied.
    pub excluded_labels: Exclusions,
}

/// The exporting cluster's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where it listens; not empty.
    pub hosts: Vec<Host>,
    /// The port for traffic.
    pub port: NonZeroU16,
    /// Who it must prove to be.
    pub identity: Identity,
    /// How it is probed; `None`: not at all, it counts as alive.
    pub probe: Option<Probe>,
}

/// An address as operators write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, looked up again and again.
    Name(DnsName),
}

/// How a gateway is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Path on the gateway's admin port.
    pub path: String,
    /// The admin port, as seen from outside.
    pub port: NonZeroU16,
    /// Time between attempts while healthy, at least 100 ms.
    pub period: Duration,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Failures in a row that make a gateway dead, at least 1.
    pub threshold: u32,
}

/// Which Services a Link mirrors. Absent and empty selectors select nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selectors {
    /// Through the gateway.
    pub gateway: Option<LabelSelector>,
    /// Pod to Pod.
    pub flat: Option<LabelSelector>,
    /// As members of federated Services.
    pub federated: Option<LabelSelector>,
}

/// How a Service is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Endpoints are the gateway's addresses.
    Gateway,
    /// Endpoints are the remote Pods.
    Flat,
}

impl Selectors {
    /// How a Service with these labels is mirrored, if at all. Flat wins if both select it.
    pub fn mode(&self, labels: &Labels) -> Option<Mode> {
        if selector::selects(self.flat.as_ref(), labels) {
            Some(Mode::Flat)
        } else if selector::selects(self.gateway.as_ref(), labels) {
            Some(Mode::Gateway)
        } else {
            None
        }
    }

    /// True if a Service with these labels is a member of a federated one.
    pub fn is_member(&self, labels: &Labels) -> bool {
        selector::selects(self.federated.as_ref(), labels)
    }
}

/// Keys that are not copied: exact keys, and `prefix/*` for every key under a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions(Vec<String>);

impl Exclusions {
    /// From the Link's entries.
    pub fn new(entries: impl IntoIterator<Item = String>) -> Self {
        Self(entries.into_iter().filter(|e| !e.is_empty()).collect())
    }

    /// True if the key is not to be copied. `a.b/*` holds for `a.b/x` and not for `a.bc/x`.
    pub fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|entry| match entry.strip_suffix("/*") {
            Some(prefix) => key.split_once('/').is_some_and(|(p, _)| p == prefix),
            None => entry == key,
        })
    }

    /// True if the key itself is listed, not only a prefix of it.
    pub fn names(&self, key: &str) -> bool {
        self.0.iter().any(|entry| entry == key)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A field of a Link that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field} is {value}: expected {expected}")]
pub struct FieldProblem {
    /// Path below `spec`.
    pub field: &'static str,
    /// The value as it stands, shortened.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// Everything that is wrong with a Link; nothing of it is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Link {name} is not valid: {}", list(.problems))]
pub struct InvalidLink {
    /// The Link's name.
    pub name: String,
    /// At least one.
    pub problems: Vec<FieldProblem>,
}

fn list(problems: &[FieldProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: MIR-7
    #[test]
    fn prefixes_exclude_by_the_whole_prefix() {
        let excluded = Exclusions::new(["a.b/*".into(), "exact".into(), "x/y".into()]);
        for (key, expected) in [
            ("a.b/x", true),
            ("a.bc/x", false),
            ("a.b", false),
            ("exact", true),
            ("exact2", false),
            ("x/y", true),
            ("x/z", false),
        ] {
            assert_eq!(excluded.contains(key), expected, "{key}");
        }
    }

    // proves: MIR-6
    #[test]
    fn flat_wins_and_empty_selectors_select_nothing() {
        let of = |t: &str| Some(selector::parse(t).unwrap());
        let labels = |t: &str| selector::parse(t).unwrap().match_labels.unwrap_or_default();
        let both = Selectors { gateway: of("e=true"), flat: of("f=1"), federated: None };
        assert_eq!(both.mode(&labels("e=true,f=1")), Some(Mode::Flat));
        assert_eq!(both.mode(&labels("e=true")), Some(Mode::Gateway));
        assert_eq!(both.mode(&labels("e=false")), None);
        assert!(!both.is_member(&labels("e=true")));
        let empty = Selectors { gateway: of(""), flat: of(""), federated: of("") };
        assert_eq!(empty.mode(&labels("e=true")), None);
        assert!(!empty.is_member(&labels("e=true")));
    }
}
