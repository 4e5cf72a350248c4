//! # The service's own certificate
//!
//! Job: the identity service signs its own leaf, so that its port speaks mesh TLS without a proxy.
//! May touch: the issuer. Must not touch: TokenReview. Callers: `run`, through the certifier.

use crate::issuer::IssuerStore;
use mesh_meshtls::{Certify, CertifyError, CertifyRequest, Issued};
use mesh_pki::{Csr, LeafPolicy};
use std::{fmt::Display, time::SystemTime};

/// Signs with the current issuer; waits for the first one.
#[derive(Clone)]
pub struct SelfCertify {
    store: IssuerStore,
    policy: LeafPolicy,
}

impl SelfCertify {
    /// With the policy of every other leaf.
    pub fn new(store: IssuerStore, policy: LeafPolicy) -> Self {
        Self { store, policy }
    }
}

impl Certify for SelfCertify {
    async fn certify(&self, request: CertifyRequest) -> Result<Issued, CertifyError> {
        let mut issuer = self.store.subscribe();
        let refused = |e: &dyn Display| CertifyError::Refused(e.to_string());
        let issuer = issuer.wait_for(Option::is_some).await.map_err(|e| refused(&e))?.clone();
        let issuer = issuer.ok_or_else(|| CertifyError::Refused("no issuer".into()))?;
        let csr = Csr::from_der(&request.csr).map_err(|e| refused(&e))?;
        let csr = csr.check(&request.identity).map_err(|e| refused(&e))?;
        let leaf = issuer.issue(&csr, self.policy, SystemTime::now()).map_err(|e| refused(&e))?;
        Ok(Issued {
            leaf: leaf.leaf.to_vec(),
            intermediates: leaf.intermediates.iter().map(|d| d.to_vec()).collect(),
            valid_until: leaf.not_after,
        })
    }
}
