//! # A parsed certificate
//!
//! Job: the facts of one certificate, read once. May touch: bytes. Callers: this crate, `check`, TLS.

use crate::error::MaterialError;
use mesh_model::identity::Identity;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The DER bytes.
    pub der: CertificateDer<'static>,
    /// Subject common name, or empty.
    pub common_name: String,
    /// Issuer's common name, or empty.
    pub issuer_name: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// DNS and URI names that are identities, in the order of the certificate.
    pub names: Vec<Identity>,
    /// Whether it may sign certificates.
    pub is_ca: bool,
    /// Kind of its public key.
    pub key: KeyKind,
    /// Object identifier of the algorithm it is signed with.
    pub signature: String,
    /// SubjectPublicKeyInfo DER.
    pub public_der: Vec<u8>,
}

/// Kinds of public keys that the credential policy tells apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA; the curve's object identifier (P-256 is 1.2.840.10045.3.1.7).
    Ecdsa(String),
    /// RSA with this many bits.
    Rsa(usize),
    /// Anything else, by object identifier.
    Other(String),
}

impl Certificate {
    /// Parses DER.
    ///
    /// # Errors
    /// When the bytes are not one X.509 certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, MaterialError> {
        let bad = |e: &dyn std::fmt::Display| MaterialError::Certificate(e.to_string());
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(MaterialError::Certificate("bytes follow the certificate".into()));
        }
        let common = |name: &x509_parser::x509::X509Name<'_>| {
            let first = name.iter_common_name().next();
            first.and_then(|cn| cn.as_str().ok()).unwrap_or_default().to_owned()
        };
        Ok(Self {
            common_name: common(parsed.subject()),
            issuer_name: common(parsed.issuer()),
            not_before: unix(parsed.validity().not_before.timestamp()),
            not_after: unix(parsed.validity().not_after.timestamp()),
            names: names(&parsed),
            is_ca: parsed.is_ca(),
            key: KeyKind::of(parsed.public_key()),
            signature: parsed.signature_algorithm.algorithm.to_id_string(),
            public_der: parsed.public_key().raw.to_vec(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// The leading certificates of a PEM text; a block of another kind ends the list.
    ///
    /// # Errors
    /// When there is none, or one does not parse.
    pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<Self>, MaterialError> {
        let none = || MaterialError::Pem { wanted: "certificate" };
        let blocks = pem::parse_many(pem).map_err(|_| none())?;
        let certificates = blocks.iter().take_while(|b| b.tag() == "CERTIFICATE");
        let chain: Vec<_> =
            certificates.map(|b| Self::from_der(b.contents())).collect::<Result<_, _>>()?;
        if chain.is_empty() { Err(none()) } else { Ok(chain) }
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        certificate_pem(&self.der)
    }

    /// Hex SHA-256 of the DER.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// Whether `now` lies within the validity.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Time left, zero if it has expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

impl KeyKind {
    pub(crate) fn of(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Self {
        use x509_parser::public_key::PublicKey;
        match spki.parsed() {
            Ok(PublicKey::EC(_)) => {
                let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
                Self::Ecdsa(curve.map(|c| c.to_id_string()).unwrap_or_default())
            }
            Ok(PublicKey::RSA(key)) => Self::Rsa(key.key_size()),
            _ => Self::Other(spki.algorithm.algorithm.to_id_string()),
        }
    }
}

/// Lower-case hex SHA-256.
pub fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn certificate_pem(der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config)
}

fn names(parsed: &X509Certificate<'_>) -> Vec<Identity> {
    let Ok(Some(san)) = parsed.subject_alternative_name() else { return Vec::new() };
    let identity = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) => text.parse().ok(),
        _ => None,
    };
    san.value.general_names.iter().filter_map(identity).collect()
}

/// Unix seconds as a time; what lies before 1970 is 1970.
fn unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs())
}
