//! # Errors
//!
//! Job: why a destination is not known, or a connection not carried, by whose doing.
//! May touch: values. Callers: this crate, the gateway.

use mesh_discover::{Refusal, Unanswered};
use mesh_http::client::ConnectFailure;
use mesh_stack::{gate::FailFast, queue::Full};
use std::{net::SocketAddr, sync::Arc};

/// Why nothing is known of a destination.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiscoverError {
    /// There is no such Service.
    #[error("no such Service")]
    Missing(Refusal),
    /// The control plane refuses to tell (not exported, or not a name that it serves).
    #[error("{0}")]
    Refused(Refusal),
    /// The control plane does not answer.
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
}

/// Why a connection was not carried, or broke.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// Discovery failed.
    #[error("{0}")]
    Discover(#[from] DiscoverError),
    /// No route for connections of this kind.
    #[error("no route")]
    NoRoute,
    /// A route forbids it.
    #[error("forbidden by policy: {0}")]
    Forbidden(String),
    /// The policy cannot be used.
    #[error("invalid client policy: {0}")]
    InvalidPolicy(String),
    /// A client of a port that is routed by TLS names did not say whom it wants.
    #[error("the client names no server {0}")]
    NoSni(&'static str),
    /// The policy names no way to the backend.
    #[error("the policy names no endpoint")]
    InvalidBackend,
    /// No endpoint became ready in time.
    #[error(transparent)]
    FailFast(#[from] FailFast),
    /// Too many wait.
    #[error(transparent)]
    LoadShed(#[from] Full),
    /// The endpoint cannot be reached.
    #[error("endpoint {addr}: {failure}")]
    Connect {
        /// Which.
        addr: SocketAddr,
        /// Why.
        failure: Arc<ConnectFailure>,
    },
    /// One side broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// HTTP broke on the application's side.
    #[error("{0}")]
    Http(#[from] mesh_http::Error),
    /// The connection may not come in here.
    #[error("{0}")]
    Refused(&'static str),
}

impl TcpError {
    /// The `error` label of `outbound_tcp_errors_total`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FailFast(_) => "failfast",
            Self::LoadShed(_) => "loadshed",
            Self::Connect { .. } | Self::Io(_) | Self::Http(_) => "i/o",
            Self::Discover(_)
            | Self::NoRoute
            | Self::Forbidden(_)
            | Self::InvalidPolicy(_)
            | Self::InvalidBackend
            | Self::NoSni(_)
            | Self::Refused(_) => "unexpected",
        }
    }

    /// The `error` label of `outbound_*_route_close_total`.
    pub(crate) fn route_label(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "forbidden",
            Self::InvalidPolicy(_) => "invalid_policy",
            Self::InvalidBackend => "invalid_backend",
            Self::Discover(_)
            | Self::NoRoute
            | Self::NoSni(_)
            | Self::FailFast(_)
            | Self::LoadShed(_)
            | Self::Connect { .. }
            | Self::Io(_)
            | Self::Http(_)
            | Self::Refused(_) => "unexpected",
        }
    }
}
