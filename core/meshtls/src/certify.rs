//! # Certify
//!
//! Job: the one question to the identity service, as a trait, so that the renewal logic knows no gRPC.
//! May touch: values. Callers: the certifier asks; `discover` and the identity service answer.

use mesh_model::identity::Identity;
use std::{future::Future, time::SystemTime};

/// Someone who signs leafs.
pub trait Certify: Send + Sync {
    /// Has the request signed. Bounded by the caller.
    fn certify(
        &self,
        request: CertifyRequest,
    ) -> impl Future<Output = Result<Issued, CertifyError>> + Send;
}

/// What is sent.
#[derive(Clone, Debug)]
pub struct CertifyRequest {
    /// The identity to prove.
    pub identity: Identity,
    /// The service account token, as read just now.
    pub token: Vec<u8>,
    /// PKCS#10 DER.
    pub csr: Vec<u8>,
}

/// What comes back.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf, DER.
    pub leaf: Vec<u8>,
    /// Intermediates, DER, the leaf's issuer first.
    pub intermediates: Vec<Vec<u8>>,
    /// End of validity, as the service says.
    pub valid_until: SystemTime,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The service could not be reached.
    #[error("the identity service cannot be reached: {0}")]
    Unreachable(String),
    /// The service refused.
    #[error("the identity service refused: {0}")]
    Refused(String),
    /// The token file cannot be read or is empty.
    #[error("the service account token {path} cannot be used: {reason}")]
    Token {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("the identity service did not answer in time")]
    Timeout,
}

impl<C: Certify + ?Sized> Certify for std::sync::Arc<C> {
    fn certify(
        &self,
        request: CertifyRequest,
    ) -> impl Future<Output = Result<Issued, CertifyError>> + Send {
        (**self).certify(request)
    }
}
