//! # Private keys
//!
//! Job: make, read and write keys. May touch: key bytes. Must not touch: files; never prints a key.
//! Callers: this crate, `ca create`, the proxy's bootstrap.

use crate::error::MaterialError;
use aws_lc_rs::{
    encoding::{AsBigEndian, EcPrivateKeyBin},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use std::fmt;

/// A private key with its public half.
pub struct Key(pub(crate) KeyPair);

impl Key {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn generate() -> Result<Self, MaterialError> {
        KeyPair::generate().map(Self).map_err(|e| MaterialError::Sign(e.to_string()))
    }

    /// From PEM: `EC PRIVATE KEY`, `RSA PRIVATE KEY` or `PRIVATE KEY`.
    ///
    /// # Errors
    /// When there is no such block, or the key is of an unsupported kind.
    pub fn from_pem(pem: &[u8]) -> Result<Self, MaterialError> {
        let der = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| MaterialError::Pem { wanted: "private key" })?;
        KeyPair::try_from(&der).map(Self).map_err(|_| MaterialError::Key)
    }

    /// From PKCS#8 DER, the form of a proxy's `key.p8`.
    ///
    /// # Errors
    /// When it does not parse or is of an unsupported kind.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, MaterialError> {
        KeyPair::try_from(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)))
            .map(Self)
            .map_err(|_| MaterialError::Key)
    }

    /// The key in DER: PKCS#8 for generated keys, else the form that it was read in.
    pub fn der(&self) -> PrivateKeyDer<'static> {
        let der = self.0.serialized_der().to_vec();
        PrivateKeyDer::try_from(der.clone())
            .unwrap_or_else(|_| PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)))
    }

    /// The key as PEM, in PKCS#8 form if it was generated.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The key as `EC PRIVATE KEY` (RFC 5915), the form that `step` writes; `None` unless it is P-256.
    pub fn to_sec1_pem(&self) -> Option<String> {
        let pkcs8 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, self.0.serialized_der());
        let secret: EcPrivateKeyBin<'_> = pkcs8.ok()?.private_key().as_be_bytes().ok()?;
        let public = self.0.public_key_raw();
        if secret.as_ref().len() != 32 || public.len() != 65 {
            return None;
        }
        let mut der = Vec::with_capacity(121);
        der.extend(SEC1_HEAD);
        der.extend(secret.as_ref());
        der.extend(SEC1_P256);
        der.extend(public);
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Some(pem::encode_config(&pem::Pem::new("EC PRIVATE KEY", der), config))
    }

    /// The public key as SubjectPublicKeyInfo DER.
    pub fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// SEQUENCE of 119 bytes, INTEGER 1, head of an OCTET STRING of 32 bytes.
const SEC1_HEAD: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// `[0]` with the curve's object identifier, `[1]` with the head of a BIT STRING of 65 bytes.
const SEC1_P256: [u8; 17] = [
    0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42,
    0x00,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_every_form() {
        let key = Key::generate().unwrap();
        let public = key.public_der();
        let sec1 = key.to_sec1_pem().unwrap();
        assert!(sec1.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
        assert_eq!(Key::from_pem(sec1.as_bytes()).unwrap().public_der(), public);
        assert_eq!(Key::from_pem(key.to_pem().as_bytes()).unwrap().public_der(), public);
        assert_eq!(Key::from_pkcs8(key.der().secret_der()).unwrap().public_der(), public);
    }

    #[test]
    fn bad_keys_are_errors() {
        assert!(matches!(Key::from_pem(b"x"), Err(MaterialError::Pem { .. })));
        assert!(matches!(Key::from_pkcs8(b"x"), Err(MaterialError::Key)));
        let text = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(Key::from_pem(text).is_err());
    }
}
