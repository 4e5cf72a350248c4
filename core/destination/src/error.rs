//! # Refusals
//!
//! Job: why a look-up has no answer, by whose fault, and its gRPC code, in one place.
//! May touch: status codes. Callers: index (makes), serve (answers).

use mesh_model::authority::ServiceName;
use std::fmt;
use tonic::{Code, Status};

/// Why there is nothing to stream, now or from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such Service (it may have been deleted during the stream).
    NoService(ServiceName),
    /// The Service has no endpoint of that hostname.
    NoInstance(ServiceName, String),
    /// An ExternalName Service has no endpoints.
    ExternalName(ServiceName),
    /// The client is a gateway, and this is not an exported Service of this cluster.
    NotExported,
    /// Two Services claim one cluster IP, or two Pods one address.
    Ambiguous(std::net::IpAddr),
    /// A flat mirror or federated Service, whose remote side is not served yet.
    RemoteDiscovery(ServiceName),
}

/// Why a request is refused before any look-up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Neither a Service name of this cluster nor (for profiles) an address.
    #[error("Invalid authority: {0}")]
    Authority(String),
    /// A gateway's token whose selector cannot be used.
    #[error("Invalid context token: {0}")]
    Token(#[from] mesh_wire::Invalid),
}

impl Refusal {
    /// The gRPC code. A gateway relies on `FailedPrecondition` with the text `not exported`.
    pub fn code(&self) -> Code {
        match self {
            Self::NoService(_) | Self::NoInstance(..) => Code::NotFound,
            Self::ExternalName(_) => Code::InvalidArgument,
            Self::NotExported | Self::Ambiguous(_) => Code::FailedPrecondition,
            Self::RemoteDiscovery(_) => Code::Unimplemented,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoService(service) => write!(f, "Service {service} not found"),
            Self::NoInstance(service, name) => {
                write!(f, "Service {service} has no endpoint with hostname {name}")
            }
            Self::ExternalName(service) => write!(f, "Service {service} is of type ExternalName"),
            Self::NotExported => f.write_str("not exported"),
            Self::Ambiguous(ip) => write!(f, "more than one object has the address {ip}"),
            Self::RemoteDiscovery(service) => {
                write!(
                    f,
                    "Service {service} needs discovery in another cluster, which is not served yet"
                )
            }
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
