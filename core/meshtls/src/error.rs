//! # Errors of mesh TLS
//!
//! Job: why a connection or a certificate was refused. May touch: values. Callers: this crate.

use mesh_pki::{MaterialError, VerifyError};
use std::{io, time::Duration};

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Ours: there is no certificate so far.
    #[error("this workload has no certificate yet")]
    NotCertified,
    /// The peer's or the network's: it took too long.
    #[error("the TLS handshake did not end within {0:?}")]
    Timeout(Duration),
    /// The peer broke the protocol, or one side refused the other's certificate.
    #[error("TLS handshake failed: {0}")]
    Handshake(rustls::Error),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(io::Error),
    /// The peer's certificate is good but names someone else.
    #[error("the server is not `{expected}`: its certificate names {found:?}")]
    WrongIdentity {
        /// Who was expected.
        expected: String,
        /// Whom it names.
        found: Vec<String>,
    },
}

/// Why a certificate was not installed; the one before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It does not lead to the trust anchors or names someone else.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Key or certificate does not parse or do not fit.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// It has expired on arrival.
    #[error("the certificate has expired already")]
    Expired,
    /// TLS refuses the pair.
    #[error("TLS refuses the certificate: {0}")]
    Tls(rustls::Error),
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        match inner {
            Some(tls) => Self::Handshake(tls.clone()),
            None => Self::Io(error),
        }
    }
}
