//! # Issuers
//!
//! Job: load a cluster's issuer, prove that it may sign, and sign leafs.
//! May touch: keys. Must not touch: files, Kubernetes. Callers: the identity service, `check`, tests.

use crate::{
    bundle::TrustBundle,
    ca::subject,
    certificate::Certificate,
    csr::CheckedCsr,
    error::{MaterialError, VerifyError},
    key::Key,
    verify::Role,
};
use mesh_model::identity::Identity;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// The two kinds of issuer Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerScheme {
    /// `linkerd.io/tls`.
    Linkerd,
    /// `kubernetes.io/tls`.
    Kubernetes,
}

/// How long leafs live.
#[derive(Clone, Copy, Debug)]
pub struct LeafPolicy {
    /// Validity from now on.
    pub lifetime: Duration,
    /// Allowance for clocks that differ, added at both ends.
    pub clock_skew: Duration,
}

/// An issuer whose key and certificate belong together and that may sign.
pub struct Issuer {
    chain: Vec<Certificate>,
    signer: rcgen::Issuer<'static, KeyPair>,
    /// A leaf signed at loading time: that it verifies proves chain, CA right and key at once.
    probe: CertificateDer<'static>,
    serial: AtomicU64,
}

/// A signed leaf.
#[derive(Clone, Debug)]
pub struct IssuedLeaf {
    /// The leaf, DER.
    pub leaf: CertificateDer<'static>,
    /// The issuer and its chain, from the leaf's issuer toward the root, DER.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// End of the leaf's validity.
    pub not_after: SystemTime,
}

impl IssuerScheme {
    /// Both, in the order in which they are looked for.
    pub const ALL: [Self; 2] = [Self::Linkerd, Self::Kubernetes];

    /// Names of certificate and key in the Secret and in its mounted folder.
    pub fn files(self) -> (&'static str, &'static str) {
        match self {
            Self::Linkerd => ("crt.pem", "key.pem"),
            Self::Kubernetes => ("tls.crt", "tls.key"),
        }
    }

    /// By the text of `linkerd.io/tls` or `kubernetes.io/tls`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// The text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linkerd => "linkerd.io/tls",
            Self::Kubernetes => "kubernetes.io/tls",
        }
    }
}

impl Issuer {
    /// From the PEM texts of certificate chain and key.
    ///
    /// # Errors
    /// When one does not parse, they are no pair, or the certificate is no CA.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, MaterialError> {
        let chain = Certificate::chain_from_pem(certificates)?;
        let key = Key::from_pem(key)?;
        let first = chain.first().ok_or(MaterialError::Pem { wanted: "certificate" })?;
        if first.public_der != key.public_der() {
            return Err(MaterialError::KeyMismatch { subject: first.common_name.clone() });
        }
        if !first.is_ca {
            return Err(MaterialError::NotCa { subject: first.common_name.clone() });
        }
        let signer = rcgen::Issuer::from_ca_cert_der(&first.der, key.0).map_err(sign)?;
        let probe = sign_probe(&signer, first)?;
        Ok(Self { chain, signer, probe, serial: AtomicU64::new(1) })
    }

    /// Verifies that leafs of this issuer are accepted by those who trust `anchors`.
    ///
    /// # Errors
    /// When the chain does not lead to an anchor or a certificate in it is outside its validity.
    pub fn verify(&self, anchors: &TrustBundle, now: SystemTime) -> Result<(), VerifyError> {
        // An issuer that is itself an anchor is not judged by chain building, so its dates are.
        if let Some(bad) = self.chain.iter().find(|c| !c.is_valid_at(now)) {
            return Err(VerifyError::validity(&bad.common_name, bad.not_before, bad.not_after));
        }
        let intermediates: Vec<_> = self.chain.iter().map(|c| c.der.clone()).collect();
        anchors.verify(&self.probe, &intermediates, Role::Server, now).map(drop)
    }

    /// The issuer's certificate.
    pub fn certificate(&self) -> &Certificate {
        // `from_pem` refuses an empty chain.
        &self.chain[0]
    }

    /// Earliest end of validity in the chain.
    pub fn not_after(&self) -> SystemTime {
        let ends = self.chain.iter().map(|c| c.not_after);
        ends.min().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Signs a leaf for a checked request: valid from `now - skew` to `now + lifetime + skew`, but never
    /// longer than the chain. Only the name and the usages of a mesh leaf are written, whatever else the
    /// request asked for.
    ///
    /// # Errors
    /// When the request's key is of an unsupported kind or the crypto library fails.
    pub fn issue(
        &self,
        csr: &CheckedCsr,
        policy: LeafPolicy,
        now: SystemTime,
    ) -> Result<IssuedLeaf, MaterialError> {
        let key = SubjectPublicKeyInfo::from_der(&csr.public_der).map_err(sign)?;
        let not_after = (now + policy.lifetime + policy.clock_skew).min(self.not_after());
        let name = csr.name.as_str();
        let mut params = leaf_params(name, now - policy.clock_skew, not_after)?;
        params.distinguished_name = subject(if csr.common_name { name } else { "" });
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let leaf = params.signed_by(&key, &self.signer).map_err(sign)?.der().clone();
        let parsed = Certificate::from_der(&leaf)?;
        let intermediates = self.chain.iter().map(|c| c.der.clone()).collect();
        Ok(IssuedLeaf { leaf, intermediates, not_after: parsed.not_after })
    }

    /// Whether two issuers are the same certificate chain.
    pub fn is_same(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl IssuedLeaf {
    /// Hex SHA-256 of the leaf.
    pub fn fingerprint(&self) -> String {
        crate::certificate::fingerprint(&self.leaf)
    }

    /// Whom it names, for logs.
    pub fn identity(&self) -> Option<Identity> {
        Certificate::from_der(&self.leaf).ok()?.names.into_iter().next()
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.certificate().common_name).finish()
    }
}

fn leaf_params(
    name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, MaterialError> {
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(sign)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn sign_probe(
    signer: &rcgen::Issuer<'static, KeyPair>,
    issuer: &Certificate,
) -> Result<CertificateDer<'static>, MaterialError> {
    let params = leaf_params("probe.invalid", issuer.not_before, issuer.not_after)?;
    let key = Key::generate()?;
    Ok(params.signed_by(&key.0, signer).map_err(sign)?.der().clone())
}

fn sign(error: rcgen::Error) -> MaterialError {
    MaterialError::Sign(error.to_string())
}

#[cfg(test)]
#[path = "issuer/tests.rs"]
mod tests;
