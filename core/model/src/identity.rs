//! # Workload identity
//!
//! Job: the name a certificate proves, in its two forms, and the naming rule for service accounts.
//! May touch: strings. Must not touch: certificates or keys (`pki`), sockets.
//! Callers: TLS, policy, discovery, the injector.

use std::{fmt, str::FromStr, sync::Arc};

/// A verified or expected mesh identity: the first DNS or URI SAN of a leaf certificate.
///
/// Comparison is byte-wise after lower-casing DNS names (proxy API `TlsIdentity`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// `<sa>.<ns>.serviceaccount.identity.<control-ns>.<trust-domain>`, lower-case, no trailing dot.
    Dns(DnsName),
    /// `spiffe://<trust-domain>/<path>`, kept as given.
    Uri(Arc<str>),
}

/// A DNS name, lower-case, without a trailing dot, 1 to 253 bytes, labels of 1 to 63 bytes (RFC 1035
/// section 2.3.4, with `_` tolerated as Kubernetes headless records use it).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

/// Why a text is not an [`Identity`] or a [`DnsName`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidName {
    /// The text is empty.
    #[error("the name is empty")]
    Empty,
    /// The text is longer than 253 bytes.
    #[error("the name has {0} bytes, at most 253 are allowed")]
    TooLong(usize),
    /// A label is empty, longer than 63 bytes, or has a character that DNS names do not allow.
    #[error("`{0}` is not a valid DNS label")]
    Label(String),
    /// A URI identity that is not of the `spiffe` scheme.
    #[error("`{0}` is not a spiffe:// URI")]
    Uri(String),
}

impl DnsName {
    /// The name as text, lower-case, no trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, left to right.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// True if this name is `suffix` or lies under it, label by label. The empty suffix holds for all.
    pub fn is_under(&self, suffix: &str) -> bool {
        let suffix = suffix.trim_matches('.');
        if suffix.is_empty() {
            return true;
        }
        match self.0.len().checked_sub(suffix.len()) {
            None => false,
            Some(at) => {
                self.0[at..].eq_ignore_ascii_case(suffix)
                    && (at == 0 || self.0.as_bytes()[at - 1] == b'.')
            }
        }
    }
}

impl FromStr for DnsName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.len() > 253 {
            return Err(InvalidName::TooLong(name.len()));
        }
        for label in name.split('.') {
            let bytes = label.as_bytes();
            let legal = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
            let edges = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
            if bytes.len() > 63
                || !bytes.iter().all(legal)
                || !edges(bytes.first())
                || !edges(bytes.last())
            {
                return Err(InvalidName::Label(label.chars().take(80).collect()));
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Identity {
    /// The identity of a service account (Linkerd's naming rule).
    ///
    /// # Errors
    /// When any part does not form a DNS name.
    pub fn of_service_account(
        account: &str,
        namespace: &str,
        control_namespace: &str,
        trust_domain: &str,
    ) -> Result<Self, InvalidName> {
        format!("{account}.{namespace}.serviceaccount.identity.{control_namespace}.{trust_domain}")
            .parse()
            .map(Identity::Dns)
    }

    /// The identity as text, as it stands in the SAN and in `l5d-client-id`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dns(name) => name.as_str(),
            Self::Uri(uri) => uri,
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains("://") {
            if !text.starts_with("spiffe://") || text.len() > 2048 {
                return Err(InvalidName::Uri(text.chars().take(80).collect()));
            }
            return Ok(Self::Uri(text.into()));
        }
        text.parse().map(Self::Dns)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_are_lower_cased_and_lose_the_trailing_dot() {
        assert_eq!("Foo.Bar.".parse::<DnsName>().unwrap().as_str(), "foo.bar");
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        assert_eq!("".parse::<DnsName>(), Err(InvalidName::Empty));
        assert!(matches!("a..b".parse::<DnsName>(), Err(InvalidName::Label(_))));
        assert!(matches!("-a.b".parse::<DnsName>(), Err(InvalidName::Label(_))));
        assert!(matches!("a".repeat(300).parse::<DnsName>(), Err(InvalidName::TooLong(300))));
        assert!(matches!("http://x".parse::<Identity>(), Err(InvalidName::Uri(_))));
    }

    #[test]
    fn suffixes_match_on_label_borders() {
        let name: DnsName = "a.svc.cluster.local".parse().unwrap();
        assert!(name.is_under("svc.cluster.local."));
        assert!(name.is_under(""));
        assert!(!name.is_under("vc.cluster.local"));
        assert!(!name.is_under("x.a.svc.cluster.local"));
    }
}
