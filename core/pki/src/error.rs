//! # Errors of certificates
//!
//! Job: what is wrong with material, a request, or a chain. May touch: values. Callers: this crate.

use std::time::SystemTime;

/// Key or certificate material cannot be used. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Not PEM, or no block of the kind that is needed.
    #[error("no {wanted} found in the PEM text")]
    Pem {
        /// The kind of block.
        wanted: &'static str,
    },
    /// A certificate does not parse.
    #[error("the certificate does not parse: {0}")]
    Certificate(String),
    /// A key does not parse or is of an unsupported kind.
    #[error("the private key does not parse or is neither ECDSA nor RSA")]
    Key,
    /// Key and certificate are not a pair.
    #[error("the private key does not belong to the certificate `{subject}`")]
    KeyMismatch {
        /// The certificate's common name.
        subject: String,
    },
    /// An issuer certificate that may not sign.
    #[error("the certificate `{subject}` is not a CA")]
    NotCa {
        /// The certificate's common name.
        subject: String,
    },
    /// The crypto library failed.
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// A chain does not prove what it should. The peer's fault, or the wrong trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// webpki's verdict.
    #[error("the certificate does not verify to the trust anchors: {0}")]
    Chain(webpki::Error),
    /// Outside its validity.
    #[error("the certificate `{subject}` is valid from {from} to {to} (Unix seconds) only")]
    Validity {
        /// The certificate's common name.
        subject: String,
        /// Start.
        from: u64,
        /// End.
        to: u64,
    },
    /// The leaf's names lack the expected one.
    #[error("the certificate names {found:?}, not `{expected}`")]
    Name {
        /// Who was expected.
        expected: String,
        /// Whom the certificate names.
        found: Vec<String>,
    },
    /// It does not parse, or holds no name.
    #[error(transparent)]
    Material(#[from] MaterialError),
}

impl VerifyError {
    pub(crate) fn validity(subject: &str, from: SystemTime, to: SystemTime) -> Self {
        let unix =
            |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::Validity { subject: subject.to_owned(), from: unix(from), to: unix(to) }
    }
}

/// A certificate signing request breaks a rule. The requesting proxy's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrProblem {
    /// Not a PKCS#10 request in DER, or its signature is wrong.
    #[error("the certificate signing request does not parse")]
    Malformed,
    /// Not exactly one DNS name.
    #[error("the request must have exactly one DNS name, it has {0}")]
    DnsNames(usize),
    /// The one DNS name is another.
    #[error("the request names `{found}`, not `{expected}`")]
    OtherName {
        /// In the request.
        found: String,
        /// Asked for.
        expected: String,
    },
    /// The common name is another.
    #[error("the request's common name is `{found}`, not `{expected}`")]
    CommonName {
        /// In the request.
        found: String,
        /// Asked for.
        expected: String,
    },
    /// Names that are not DNS names.
    #[error("the request has names of another kind (email, IP or URI)")]
    OtherKinds,
    /// Not an ECDSA key.
    #[error("the request's public key is not an ECDSA key")]
    NotEcdsa,
}
