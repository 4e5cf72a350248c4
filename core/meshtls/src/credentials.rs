//! # Credentials
//!
//! Job: who this workload is, whom it trusts, and its current certificate as ready TLS configurations.
//! May touch: keys in memory. Must not touch: files (`store`), the identity service (`certifier`).
//! Callers: everything that accepts or opens mesh connections; the certifier installs.

use crate::{
    error::{InstallError, TlsError},
    profile::{self, Configs},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_model::identity::{DnsName, Identity};
use mesh_pki::{Certificate, Key, MaterialError, Role, TrustBundle, VerifiedIdentity, create_csr};
use rustls::{ClientConfig, crypto::aws_lc_rs::sign::any_ecdsa_type, sign::CertifiedKey};
use rustls_pki_types::CertificateDer;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// Who the workload is and whom it trusts.
#[derive(Debug)]
pub struct Params {
    /// The own identity, which must be in each own certificate.
    pub local: Identity,
    /// The name that clients send as SNI.
    pub server_name: DnsName,
    /// The roots of all clusters that may talk to us.
    pub anchors: TrustBundle,
    /// The own key, for the life of the process.
    pub key: Key,
    /// The request to sign; made from the key if absent.
    pub csr: Option<Vec<u8>>,
}

/// The workload's side of mesh TLS. Clones share one state; a new certificate is seen by all at once,
/// while open connections keep theirs.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    local: Identity,
    server_name: DnsName,
    anchors: TrustBundle,
    anonymous: Arc<ClientConfig>,
    material: ArcSwap<Material>,
    current: ArcSwapOption<Current>,
    expiry: watch::Sender<Option<SystemTime>>,
}

/// The key and what was made of it.
#[derive(Debug)]
struct Material {
    key: Key,
    csr: Vec<u8>,
}

/// The installed certificate.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) configs: Configs,
    chain: Vec<CertificateDer<'static>>,
    proof: VerifiedIdentity,
}

impl Credentials {
    /// Without a certificate so far.
    ///
    /// # Errors
    /// When no request can be made of the key.
    pub fn new(params: Params) -> Result<Self, MaterialError> {
        let material = Material::new(params.key, params.csr, &params.server_name)?;
        let anonymous = profile::anonymous_client(&params.anchors)
            .map_err(|e| MaterialError::Sign(e.to_string()))?;
        Ok(Self(Arc::new(Shared {
            local: params.local,
            server_name: params.server_name,
            anchors: params.anchors,
            anonymous: anonymous.into(),
            material: ArcSwap::from_pointee(material),
            current: ArcSwapOption::empty(),
            expiry: watch::Sender::new(None),
        })))
    }

    /// The own identity.
    pub fn local(&self) -> &Identity {
        &self.0.local
    }

    /// The name that clients send as SNI.
    pub fn server_name(&self) -> &DnsName {
        &self.0.server_name
    }

    /// Whom this workload trusts.
    pub fn anchors(&self) -> &TrustBundle {
        &self.0.anchors
    }

    /// The request to have signed, DER.
    pub fn csr(&self) -> Vec<u8> {
        self.0.material.load().csr.clone()
    }

    /// Waits for the first certificate.
    pub async fn ready(&self) {
        let mut expiry = self.0.expiry.subscribe();
        // The sender lives as long as `self`.
        let _ = expiry.wait_for(Option::is_some).await;
    }

    /// Whether there is a certificate (it may have expired since).
    pub fn is_ready(&self) -> bool {
        self.0.expiry.borrow().is_some()
    }

    /// End of the current certificate's validity.
    pub fn expiry(&self) -> Option<SystemTime> {
        *self.0.expiry.borrow()
    }

    /// Changes with each installed certificate.
    pub fn subscribe(&self) -> watch::Receiver<Option<SystemTime>> {
        self.0.expiry.subscribe()
    }

    /// The current leaf.
    pub fn leaf(&self) -> Option<Certificate> {
        Certificate::from_der(self.0.current.load().as_ref()?.chain.first()?).ok()
    }

    /// Verifies a leaf with its intermediates and uses it for all new connections.
    ///
    /// # Errors
    /// When it does not verify to the anchors at `now`, lacks the own identity or does not belong to the
    /// own key. The certificate before stays.
    pub fn install(
        &self,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<VerifiedIdentity, InstallError> {
        self.install_with(&self.0.material.load(), leaf, intermediates, now)
    }

    /// Key and chain as PEM, for a file that only this workload can read; `None` without a certificate.
    pub fn export(&self) -> Option<Vec<u8>> {
        let current = self.0.current.load();
        let chain = &current.as_ref()?.chain;
        let mut pem = self.0.material.load().key.to_pem().into_bytes();
        for der in chain {
            pem.extend(Certificate::from_der(der).ok()?.to_pem().into_bytes());
        }
        Some(pem)
    }

    /// Takes key and chain of an earlier [`export`](Self::export), if they are still good.
    ///
    /// # Errors
    /// As [`install`](Self::install); nothing changes then.
    pub fn import(&self, pem: &[u8], now: SystemTime) -> Result<VerifiedIdentity, InstallError> {
        let key = Key::from_pem(pem)?;
        let certificates = skip_to_certificates(pem);
        let chain = Certificate::chain_from_pem(certificates)?;
        let (leaf, issuers) =
            chain.split_first().ok_or(MaterialError::Pem { wanted: "certificate" })?;
        let issuers: Vec<_> = issuers.iter().map(|c| c.der.to_vec()).collect();
        let material = Arc::new(Material::new(key, None, &self.0.server_name)?);
        let proof = self.install_with(&material, &leaf.der, &issuers, now)?;
        self.0.material.store(material);
        Ok(proof)
    }

    pub(crate) fn current(&self) -> Result<Arc<Current>, TlsError> {
        self.0.current.load_full().ok_or(TlsError::NotCertified)
    }

    /// The configuration for a client that may have no certificate yet.
    pub(crate) fn client(&self, transport: bool) -> Result<Arc<ClientConfig>, TlsError> {
        match self.0.current.load_full() {
            Some(current) if transport => Ok(current.configs.client_transport.clone()),
            Some(current) => Ok(current.configs.client.clone()),
            None if transport => Err(TlsError::NotCertified),
            None => Ok(self.0.anonymous.clone()),
        }
    }

    fn install_with(
        &self,
        material: &Material,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<VerifiedIdentity, InstallError> {
        let issuers: Vec<_> =
            intermediates.iter().map(|d| CertificateDer::from(d.clone())).collect();
        let verified = self.0.anchors.verify(leaf, &issuers, Role::Server, now)?;
        let proof = verified.prove(&self.0.local)?;
        if proof.not_after() <= now {
            return Err(InstallError::Expired);
        }
        let leaf = verified.leaf();
        if leaf.public_der != material.key.public_der() {
            return Err(MaterialError::KeyMismatch { subject: leaf.common_name.clone() }.into());
        }
        let mut chain = vec![leaf.der.clone()];
        chain.extend(issuers);
        let signer = any_ecdsa_type(&material.key.der()).map_err(InstallError::Tls)?;
        let certified = Arc::new(CertifiedKey::new(chain.clone(), signer));
        let configs = Configs::new(&self.0.anchors, &self.0.server_name, certified)
            .map_err(InstallError::Tls)?;
        let current = Current { configs, chain, proof: proof.clone() };
        let expiry = current.proof.not_after();
        self.0.current.store(Some(Arc::new(current)));
        self.0.expiry.send_replace(Some(expiry));
        Ok(proof)
    }
}

impl Material {
    fn new(key: Key, csr: Option<Vec<u8>>, name: &DnsName) -> Result<Self, MaterialError> {
        let csr = match csr {
            Some(csr) => csr,
            None => create_csr(name, &key)?,
        };
        Ok(Self { key, csr })
    }
}

/// Longest handshake, both directions.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// An export begins with the key; the chain follows.
fn skip_to_certificates(pem: &[u8]) -> &[u8] {
    const MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let at = pem.windows(MARK.len()).position(|w| w == MARK).unwrap_or(pem.len());
    &pem[at..]
}
