//! # Verifying chains
//!
//! Job: decide whether a chain leads to the trust anchors, and whom it names. The results are tokens
//! that only this file can make.
//! May touch: bytes. Must not touch: host names (a mesh peer is known by its identity alone).
//! Callers: TLS verifiers, the certificate state machine, the identity service.

use crate::{bundle::TrustBundle, certificate::Certificate, error::VerifyError};
use mesh_model::identity::Identity;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use std::time::SystemTime;
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs as algorithms};

/// What a leaf is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// By a TLS client.
    Client,
    /// By a TLS server.
    Server,
}

/// A chain that verified, with the leaf's names.
#[derive(Clone, Debug)]
pub struct VerifiedChain {
    leaf: Certificate,
}

/// An identity that a verified certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedIdentity {
    identity: Identity,
    not_after: SystemTime,
}

impl TrustBundle {
    /// Verifies a leaf with its intermediates at a point in time.
    ///
    /// # Errors
    /// When it does not lead to a root of the bundle, is outside its validity, or does not parse.
    pub fn verify(
        &self,
        leaf: &[u8],
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: SystemTime,
    ) -> Result<VerifiedChain, VerifyError> {
        let der = CertificateDer::from(leaf);
        let parsed = EndEntityCert::try_from(&der).map_err(VerifyError::Chain)?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(since);
        parsed
            .verify_for_usage(ALGORITHMS, self.anchors(), intermediates, at, usage, None, None)
            .map_err(VerifyError::Chain)?;
        Ok(VerifiedChain { leaf: Certificate::from_der(leaf)? })
    }
}

impl VerifiedChain {
    /// The first name, if there is one.
    pub fn identity(&self) -> Option<VerifiedIdentity> {
        self.leaf.names.first().map(|name| self.token(name))
    }

    /// The token for one expected name.
    ///
    /// # Errors
    /// When the leaf does not have it.
    pub fn prove(&self, expected: &Identity) -> Result<VerifiedIdentity, VerifyError> {
        if self.leaf.names.contains(expected) {
            return Ok(self.token(expected));
        }
        Err(VerifyError::Name {
            expected: expected.to_string(),
            found: self.leaf.names.iter().map(ToString::to_string).collect(),
        })
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    fn token(&self, identity: &Identity) -> VerifiedIdentity {
        VerifiedIdentity { identity: identity.clone(), not_after: self.leaf.not_after }
    }
}

impl VerifiedIdentity {
    /// Who.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Gives the bare identity.
    pub fn into_identity(self) -> Identity {
        self.identity
    }
}

/// Algorithms accepted in chains: ECDSA on the NIST curves, Ed25519, RSA PKCS#1 (no PSS), as Linkerd's
/// proxy accepts them.
pub fn signature_algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    ALGORITHMS
}

static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];
