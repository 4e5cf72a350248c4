//! # Refusals
//!
//! Job: why a look-up has no answer and its gRPC code, in one place.
//! May touch: status codes. Callers: index (makes), serve (answers).

use std::fmt;
use tonic::{Code, Status};

/// Why there is no policy, now or from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such Pod, or it is not meshed; namespace and name.
    NoWorkload(String, String),
    /// The target is neither a Service of this cluster nor outside of it.
    NoTarget,
    /// The client is a gateway, and this is not an exported Service of this cluster.
    NotExported,
}

/// A request that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The workload token.
    #[error(transparent)]
    Workload(#[from] mesh_wire::Invalid),
    /// The port.
    #[error("port {0} is not from 1 to 65535")]
    Port(u32),
    /// The target.
    #[error("the target is missing or is not an address")]
    Target,
}

impl Refusal {
    /// The gRPC code. A gateway relies on `FailedPrecondition` with the text `not exported`.
    pub fn code(&self) -> Code {
        match self {
            Self::NoWorkload(..) | Self::NoTarget => Code::NotFound,
            Self::NotExported => Code::FailedPrecondition,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkload(namespace, name) => {
                write!(f, "Pod {namespace}/{name} does not exist or is not meshed")
            }
            Self::NoTarget => f.write_str("the target is not known in this cluster"),
            Self::NotExported => f.write_str("not exported"),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

impl From<BadRequest> for Status {
    fn from(bad: BadRequest) -> Self {
        Self::new(Code::InvalidArgument, bad.to_string())
    }
}
