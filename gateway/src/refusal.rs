//! # Refusals
//!
//! Job: why the gateway does not carry something, what the peer is told, and how it is counted.
//! May touch: values. Callers: `forward`.

use http::StatusCode;
use mesh_http::{
    Error,
    respond::{GrpcCode, Problem},
};
use mesh_outbound::DiscoverError;

/// Why a named connection or one of its requests is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The name is not under the gateway's suffixes.
    #[error("bad gateway domain")]
    Domain,
    /// The name is not an exported Service of this cluster.
    #[error("bad gateway domain: not exported")]
    NotExported,
    /// There is no such Service.
    #[error("bad gateway domain: no such Service")]
    Missing,
    /// The client is this gateway.
    #[error("gateway loop detected: the client is this gateway")]
    OwnClient,
    /// The request went through this gateway before.
    #[error("gateway loop detected")]
    Forwarded,
    /// The control plane does not answer, and nothing is known from before.
    #[error("the control plane does not answer")]
    Unanswered,
}

impl Refusal {
    /// The `reason` label of `gateway_refusals_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::NotExported => "not_exported",
            Self::Missing => "no_such_service",
            Self::OwnClient => "loop_identity",
            Self::Forwarded => "loop_forwarded",
            Self::Unanswered => "unanswered",
        }
    }

    /// What a peer sees, and the `error` label of the inbound families.
    pub(crate) fn problem(&self) -> Problem {
        let (status, grpc) = match self {
            Self::Domain | Self::NotExported | Self::Missing => {
                (StatusCode::NOT_FOUND, GrpcCode::NotFound)
            }
            Self::OwnClient | Self::Forwarded => (StatusCode::LOOP_DETECTED, GrpcCode::Aborted),
            Self::Unanswered => (StatusCode::GATEWAY_TIMEOUT, GrpcCode::DeadlineExceeded),
        };
        let problem = Problem::new(status, grpc, self.to_string());
        match self {
            Self::Domain | Self::NotExported | Self::Missing => {
                problem.kind("gateway domain invalid")
            }
            Self::OwnClient | Self::Forwarded => problem.kind("gateway loop").closing(),
            Self::Unanswered => problem.kind("unexpected"),
        }
    }
}

impl From<&Refusal> for Error {
    fn from(refusal: &Refusal) -> Self {
        refusal.problem().into()
    }
}

impl From<DiscoverError> for Refusal {
    fn from(error: DiscoverError) -> Self {
        match error {
            DiscoverError::Missing(_) => Self::Missing,
            DiscoverError::Refused(_) => Self::NotExported,
            DiscoverError::Unanswered(_) => Self::Unanswered,
        }
    }
}
