//! # The issuer in use
//!
//! Job: hold the current issuer, judge new material from either source, and keep the old one where the
//! new is not good.
//! May touch: keys in memory. Must not touch: files, Kubernetes (`watch` brings material).
//! Callers: `watch` offers; `certify` and `own` sign.

use mesh_pki::{Issuer, MaterialError, TrustBundle, VerifyError, fingerprint};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc, time::SystemTime};
use tokio::sync::watch;

/// The texts of certificate chain and key.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// PEM.
    pub certificates: Vec<u8>,
    /// PEM.
    pub key: Vec<u8>,
}

/// Where material came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The mounted folder, which may lag behind the API.
    File,
    /// The Secret itself.
    Api,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Offered {
    /// The first issuer.
    First,
    /// It replaced another.
    Replaced,
    /// It is the current one, or an older one that a file still shows.
    Unchanged,
    /// It is not good; the current one stays.
    Rejected(OfferError),
}

/// Why material is not taken.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// It does not parse or fit together.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// It does not verify to the anchors.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// The issuer, one writer at a time, many readers. Clones share it.
#[derive(Clone)]
pub struct IssuerStore(Arc<Inner>);

struct Inner {
    anchors: TrustBundle,
    current: watch::Sender<Option<Arc<Issuer>>>,
    history: Mutex<History>,
}

#[derive(Default)]
struct History {
    current: String,
    rejected: String,
    /// What the Secret held before: a mounted file shows it for up to a minute longer.
    superseded: VecDeque<String>,
}

impl IssuerStore {
    /// Without an issuer so far.
    pub fn new(anchors: TrustBundle) -> Self {
        let current = watch::Sender::new(None);
        Self(Arc::new(Inner { anchors, current, history: Mutex::default() }))
    }

    /// Whom the mesh trusts.
    pub fn anchors(&self) -> &TrustBundle {
        &self.0.anchors
    }

    /// The issuer, if there is one.
    pub fn current(&self) -> Option<Arc<Issuer>> {
        self.0.current.borrow().clone()
    }

    /// Changes with each new issuer.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Issuer>>> {
        self.0.current.subscribe()
    }

    /// Judges material and uses it from now on if it is good.
    pub fn offer(&self, material: &Material, source: Source, now: SystemTime) -> Offered {
        let print = material.fingerprint();
        let mut history = self.0.history.lock();
        let stale = source == Source::File && history.superseded.contains(&print);
        // Bad material is reported once, not at each look.
        if history.current == print || history.rejected == print || stale {
            return Offered::Unchanged;
        }
        let issuer = match self.judge(material, now) {
            Ok(issuer) => Arc::new(issuer),
            Err(error) => {
                history.rejected = print;
                return Offered::Rejected(error);
            }
        };
        tracing::info!(
            issuer = issuer.certificate().common_name,
            expires_in = ?issuer.not_after().duration_since(now).unwrap_or_default(),
            "Issuer loaded"
        );
        let old = std::mem::replace(&mut history.current, print);
        history.rejected.clear();
        let current = history.current.clone();
        history.superseded.retain(|p| *p != current);
        if !old.is_empty() {
            history.superseded.push_back(old);
            if history.superseded.len() > SUPERSEDED {
                history.superseded.pop_front();
            }
        }
        match self.0.current.send_replace(Some(issuer)) {
            None => Offered::First,
            Some(_) => Offered::Replaced,
        }
    }

    fn judge(&self, material: &Material, now: SystemTime) -> Result<Issuer, OfferError> {
        let issuer = Issuer::from_pem(&material.certificates, &material.key)?;
        issuer.verify(&self.0.anchors, now)?;
        Ok(issuer)
    }
}

impl Material {
    fn fingerprint(&self) -> String {
        let mut both = self.certificates.clone();
        both.push(0);
        both.extend(&self.key);
        fingerprint(&both)
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(..)")
    }
}

const SUPERSEDED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_pki::{CaParams, CertifiedKey, create_issuer, create_root};
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn material(pair: &CertifiedKey) -> Material {
        Material { certificates: pair.certificate.to_pem().into(), key: pair.key.to_pem().into() }
    }

    // proves: ID-2, ID-3
    #[test]
    fn good_material_replaces_and_bad_does_not() {
        let now = SystemTime::now();
        let root = create_root(&CaParams::root("r", now, 10 * HOUR)).unwrap();
        let issuer = |name: &str| {
            material(&create_issuer(&root, &CaParams::issuer(name, now, HOUR)).unwrap())
        };
        let anchors = TrustBundle::from_certificates([root.certificate.clone()]).unwrap();
        let store = IssuerStore::new(anchors);
        let (one, two) = (issuer("one"), issuer("two"));
        let name = || store.current().map(|i| i.certificate().common_name.clone());
        assert!(matches!(store.offer(&one, Source::File, now), Offered::First));
        assert!(matches!(store.offer(&two, Source::Api, now), Offered::Replaced));
        // The mounted file follows late.
        assert!(matches!(store.offer(&one, Source::File, now), Offered::Unchanged));
        assert!(matches!(store.offer(&two, Source::File, now), Offered::Unchanged));
        let foreign = create_root(&CaParams::root("f", now, HOUR)).unwrap();
        let mixed = Material { key: one.key.clone(), ..two.clone() };
        for bad in [material(&foreign), mixed] {
            assert!(matches!(store.offer(&bad, Source::Api, now), Offered::Rejected(_)));
            assert!(matches!(store.offer(&bad, Source::Api, now), Offered::Unchanged));
        }
        assert_eq!(name().as_deref(), Some("two"));
        // Back to the old one on purpose, through the Secret.
        assert!(matches!(store.offer(&one, Source::Api, now), Offered::Replaced));
        assert!(matches!(store.offer(&two, Source::File, now), Offered::Unchanged));
        assert_eq!(name().as_deref(), Some("one"));
    }
}
