//! # Errors
//!
//! Job: why the service cannot start or a request is refused, and the gRPC code of each refusal.
//! May touch: values. Callers: this crate, `controller`.

use mesh_pki::{CsrProblem, MaterialError, VerifyError};
use std::{io, net::SocketAddr, path::PathBuf};
use tonic::{Code, Status};

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trust anchors cannot be used.
    #[error(
        "the trust anchors in {path} cannot be used: {reason}; mount the ConfigMap `linkerd-identity-trust-roots`"
    )]
    Anchors {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A port cannot be opened.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The service account lacks a right.
    #[error(
        "the service account may not create TokenReviews: {0}; apply the ClusterRole `linkerd-<namespace>-identity`"
    )]
    NoTokenReview(String),
    /// The API server did not answer.
    #[error(transparent)]
    Cluster(#[from] mesh_cluster::Error),
    /// The own names or keys do not fit.
    #[error("the own identity cannot be made: {0}")]
    Own(String),
    /// The gRPC server ended.
    #[error("the gRPC server failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A metric is registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no issuer so far.
    #[error("no issuer is loaded, certificates cannot be signed yet")]
    NoIssuer,
    /// A field is missing or malformed.
    #[error("{0}")]
    Malformed(String),
    /// The issuer in memory does not verify any more.
    #[error("the issuer is not valid: {0}")]
    Issuer(#[source] VerifyError),
    /// The request breaks a rule.
    #[error(transparent)]
    Csr(#[from] CsrProblem),
    /// The token is not good.
    #[error("the token is not authenticated")]
    NotAuthenticated,
    /// The token is someone else's.
    #[error("the token proves `{proven}`, not `{requested}`")]
    OtherIdentity {
        /// By the token.
        proven: String,
        /// Asked for.
        requested: String,
    },
    /// TokenReview could not be asked.
    #[error("the token could not be reviewed: {0}")]
    Review(mesh_cluster::Error),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] MaterialError),
}

impl Refusal {
    /// The gRPC code that Linkerd's clients see.
    pub fn code(&self) -> Code {
        match self {
            Self::NoIssuer => Code::Unavailable,
            Self::Malformed(_) | Self::Csr(CsrProblem::Malformed) => Code::InvalidArgument,
            Self::Issuer(_) => Code::Unknown,
            Self::Csr(CsrProblem::NotEcdsa) | Self::Review(_) | Self::Sign(_) => Code::Internal,
            Self::Csr(
                CsrProblem::DnsNames(_)
                | CsrProblem::OtherName { .. }
                | CsrProblem::CommonName { .. }
                | CsrProblem::OtherKinds,
            )
            | Self::NotAuthenticated
            | Self::OtherIdentity { .. } => Code::FailedPrecondition,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.code(), refusal.to_string())
    }
}
