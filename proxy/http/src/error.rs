//! # Errors of HTTP traffic
//!
//! Job: all that can go wrong with a request between a client and its response, by cause.
//! May touch: values. Must not touch: responses (`respond` turns errors into them).
//! Callers: everyone who serves or sends HTTP.

use crate::{client::ConnectFailure, respond::Problem};
use std::{net::SocketAddr, sync::Arc};

/// Why a request has no good response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing became ready in time.
    #[error("service in fail-fast")]
    FailFast,
    /// Too much is waiting already, or nothing can take the request.
    #[error("service unavailable")]
    LoadShed,
    /// The policy has no route for this request.
    #[error("no route")]
    NoRoute,
    /// The policy cannot be used.
    #[error("invalid client policy: {0}")]
    InvalidPolicy(String),
    /// The route leads nowhere.
    #[error("{0}")]
    Backend(String),
    /// `l5d-require-id` names another identity than the endpoint's.
    #[error("required id {required}; found {found}")]
    RequiredId {
        /// What the client demanded.
        required: String,
        /// What discovery says of the endpoint; `none` without TLS.
        found: String,
    },
    /// No connection to the endpoint.
    #[error("{0}")]
    Connect(Arc<ConnectFailure>),
    /// A stream or connection failed under HTTP/2.
    #[error("{0}")]
    H2(#[from] h2::Error),
    /// An HTTP/1 request failed because the HTTP/2 stream that carried it was reset.
    #[error("upgraded connection failed with HTTP/2 reset: {0}")]
    OrigProtoReset(h2::Reason),
    /// A connection failed under HTTP/1, or the client's own connection failed.
    #[error("{}", chain(.0))]
    Hyper(#[from] hyper::Error),
    /// A stream failed below HTTP.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The request cannot be forwarded as it is.
    #[error("{0}")]
    Malformed(&'static str),
    /// An attempt went on after a newer one had begun. Never seen by clients.
    #[error("superseded by another attempt")]
    Superseded,
    /// A limit of the request's time was passed.
    #[error("{0}")]
    Timeout(crate::timeouts::Timeout),
    /// A room says itself what the client shall see.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Something that should not happen; the text goes to the log, not to the client.
    #[error("{0}")]
    Unexpected(String),
    /// Any of these, with where it happened.
    #[error("{context}: {source}")]
    In {
        /// `endpoint 10.0.0.1:80`, `logical service web.shop:80`, ...
        context: String,
        /// What happened.
        source: Box<Error>,
    },
}

impl Error {
    /// Adds where it happened.
    #[must_use]
    pub fn at(self, context: impl std::fmt::Display) -> Self {
        Self::In { context: context.to_string(), source: Box::new(self) }
    }

    /// Adds the endpoint.
    #[must_use]
    pub fn at_endpoint(self, addr: SocketAddr) -> Self {
        self.at(format_args!("endpoint {addr}"))
    }

    /// The cause without its context.
    pub fn root(&self) -> &Self {
        match self {
            Self::In { source, .. } => source.root(),
            other => other,
        }
    }

    /// The HTTP/2 reason if a stream was reset or its connection closed by the protocol.
    pub fn h2_reason(&self) -> Option<h2::Reason> {
        match self.root() {
            Self::H2(error) => error.reason(),
            Self::Hyper(error) => h2_source(error).and_then(h2::Error::reason),
            _ => None,
        }
    }

    /// The value of the `error` label in metrics of errors.
    pub fn kind(&self) -> &'static str {
        match self.root() {
            Self::FailFast => "failfast",
            Self::LoadShed => "loadshed",
            Self::RequiredId { .. } => "identity required",
            Self::Timeout(_) => "response timeout",
            Self::Connect(_)
            | Self::H2(_)
            | Self::OrigProtoReset(_)
            | Self::Hyper(_)
            | Self::Io(_) => "i/o",
            Self::Problem(problem) => problem.kind,
            Self::NoRoute
            | Self::InvalidPolicy(_)
            | Self::Backend(_)
            | Self::Malformed(_)
            | Self::Superseded
            | Self::Unexpected(_)
            | Self::In { .. } => "unexpected",
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<mesh_stack::gate::FailFast> for Error {
    fn from(_: mesh_stack::gate::FailFast) -> Self {
        Self::FailFast
    }
}

impl From<mesh_stack::queue::Full> for Error {
    fn from(_: mesh_stack::queue::Full) -> Self {
        Self::LoadShed
    }
}

/// The HTTP/2 error inside a hyper error.
pub(crate) fn h2_source(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

fn chain(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
