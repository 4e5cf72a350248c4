//! # A small PKI for tests
//!
//! Job: roots, issuers and credentials for TLS tests. May touch: `pki`. Callers: tests of this crate.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use mesh_meshtls::{Certify, CertifyError, CertifyRequest, Credentials, Issued, Params};
use mesh_pki::{
    CaParams, CertifiedKey, Csr, Issuer, Key, LeafPolicy, TrustBundle, create_issuer, create_root,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Ca {
    pub(crate) root: CertifiedKey,
    pub(crate) issuer: Issuer,
    pub(crate) anchors: TrustBundle,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let from = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("root", from, 1000 * HOUR)).unwrap();
        let issuer = create_issuer(&root, &CaParams::issuer("issuer", from, 1000 * HOUR)).unwrap();
        let anchors = TrustBundle::from_certificates([root.certificate.clone()]).unwrap();
        let issuer = Issuer::from_pem(
            issuer.certificate.to_pem().as_bytes(),
            issuer.key.to_pem().as_bytes(),
        )
        .unwrap();
        Self { root, issuer, anchors }
    }

    /// Credentials for `name` that trust `anchors`, without a certificate.
    pub(crate) fn bare(&self, name: &str, anchors: &TrustBundle) -> Credentials {
        Credentials::new(Params {
            local: name.parse().unwrap(),
            server_name: name.parse().unwrap(),
            anchors: anchors.clone(),
            key: Key::generate().unwrap(),
            csr: None,
        })
        .unwrap()
    }

    /// Certified credentials.
    pub(crate) fn workload(&self, name: &str) -> Credentials {
        let credentials = self.bare(name, &self.anchors);
        let issued = self.sign(&credentials, SystemTime::now(), HOUR);
        credentials.install(&issued.leaf, &issued.intermediates, SystemTime::now()).unwrap();
        credentials
    }

    pub(crate) fn sign(&self, for_: &Credentials, now: SystemTime, lifetime: Duration) -> Issued {
        self.sign_csr(&for_.csr(), for_.local(), now, lifetime)
    }

    pub(crate) fn sign_csr(
        &self,
        csr: &[u8],
        identity: &mesh_model::identity::Identity,
        now: SystemTime,
        lifetime: Duration,
    ) -> Issued {
        let csr = Csr::from_der(csr).unwrap().check(identity).unwrap();
        let policy = LeafPolicy { lifetime, clock_skew: Duration::ZERO };
        let leaf = self.issuer.issue(&csr, policy, now).unwrap();
        Issued {
            leaf: leaf.leaf.to_vec(),
            intermediates: leaf.intermediates.iter().map(|d| d.to_vec()).collect(),
            valid_until: leaf.not_after,
        }
    }
}

/// Signs through a CA, but fails while `fail` is above 0.
pub(crate) struct Signer {
    pub(crate) ca: Ca,
    pub(crate) clock: mesh_meshtls::certifier::Clock,
    pub(crate) lifetime: Duration,
    pub(crate) calls: AtomicU32,
    pub(crate) fail: AtomicU32,
}

impl Signer {
    pub(crate) fn new(
        ca: Ca,
        clock: mesh_meshtls::certifier::Clock,
        lifetime: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { ca, clock, lifetime, calls: 0.into(), fail: 0.into() })
    }
}

impl Certify for Signer {
    async fn certify(&self, request: CertifyRequest) -> Result<Issued, CertifyError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) > 0 {
            self.fail.fetch_sub(1, Ordering::SeqCst);
            return Err(CertifyError::Unreachable("test".into()));
        }
        let now = self.clock.now();
        Ok(self.ca.sign_csr(&request.csr, &request.identity, now, self.lifetime))
    }
}
