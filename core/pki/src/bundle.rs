//! # Trust bundles
//!
//! Job: the set of roots that a cluster trusts. May touch: bytes. Callers: verification, `check`, link.

use crate::{certificate::Certificate, error::MaterialError};
use rustls_pki_types::TrustAnchor;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// One or more trusted roots. Two bundles are equal if they hold the same certificates in any order.
#[derive(Clone)]
pub struct TrustBundle(Arc<Inner>);

struct Inner {
    /// By DER, so that order and repetition do not count.
    roots: BTreeMap<Vec<u8>, Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// All certificates of a PEM text; other blocks are passed over, repeated roots are kept once.
    ///
    /// # Errors
    /// When there is no certificate, or one does not parse.
    pub fn from_pem(pem: &[u8]) -> Result<Self, MaterialError> {
        let none = || MaterialError::Pem { wanted: "certificate" };
        let blocks = pem::parse_many(pem).map_err(|_| none())?;
        let roots = blocks.iter().filter(|b| b.tag() == "CERTIFICATE");
        let roots: Vec<_> =
            roots.map(|b| Certificate::from_der(b.contents())).collect::<Result<_, _>>()?;
        Self::from_certificates(roots)
    }

    /// From parsed certificates.
    ///
    /// # Errors
    /// When there is none, or one cannot be an anchor.
    pub fn from_certificates(
        roots: impl IntoIterator<Item = Certificate>,
    ) -> Result<Self, MaterialError> {
        let roots: BTreeMap<_, _> = roots.into_iter().map(|c| (c.der.to_vec(), c)).collect();
        let anchor = |c: &Certificate| {
            let anchor = webpki::anchor_from_trusted_cert(&c.der);
            anchor.map(|a| a.to_owned()).map_err(|e| MaterialError::Certificate(e.to_string()))
        };
        let anchors: Vec<_> = roots.values().map(anchor).collect::<Result<_, _>>()?;
        if anchors.is_empty() {
            return Err(MaterialError::Pem { wanted: "certificate" });
        }
        Ok(Self(Arc::new(Inner { roots, anchors })))
    }

    /// The roots, in a fixed order.
    pub fn roots(&self) -> impl Iterator<Item = &Certificate> {
        self.0.roots.values()
    }

    /// As PEM, in a fixed order.
    pub fn to_pem(&self) -> String {
        self.roots().map(Certificate::to_pem).collect()
    }

    /// The roots of both.
    pub fn union(&self, other: &Self) -> Self {
        let both = self.0.roots.iter().chain(other.0.roots.iter());
        let anchors = self.0.anchors.iter().chain(other.0.anchors.iter());
        Self(Arc::new(Inner {
            roots: both.map(|(der, root)| (der.clone(), root.clone())).collect(),
            anchors: anchors.cloned().collect(),
        }))
    }

    /// Whether this exact certificate is a root.
    pub fn contains(&self, certificate: &Certificate) -> bool {
        self.0.roots.contains_key(certificate.der.as_ref())
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.0.anchors
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots.keys().eq(other.0.roots.keys())
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roots().map(|r| &r.common_name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{CaParams, create_root};
    use std::time::{Duration, SystemTime};

    // proves: PKI-1
    #[test]
    fn bundles_compare_as_sets() {
        let root = |name: &str| {
            let params = CaParams::root(name, SystemTime::now(), Duration::from_secs(3600));
            create_root(&params).unwrap().certificate
        };
        let (a, b) = (root("a"), root("b"));
        let of = |text: String| TrustBundle::from_pem(text.as_bytes()).unwrap();
        let ab = of(format!("{}\n{}", a.to_pem(), b.to_pem()));
        let ba = of(format!("# roots\n{}{}{}", b.to_pem(), a.to_pem(), b.to_pem()));
        assert_eq!(ab, ba);
        assert_ne!(ab, of(a.to_pem()));
        assert_eq!(of(a.to_pem()).union(&of(b.to_pem())), ab);
        assert!(ab.contains(&a) && !of(a.to_pem()).contains(&b));
        assert_eq!(of(ab.to_pem()), ab);
        assert!(TrustBundle::from_pem(b"").is_err());
    }
}
