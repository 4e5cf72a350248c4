//! # Errors of inbound connections
//!
//! Job: why a connection ended before or beside its protocol, and how that is counted.
//! May touch: values. Callers: the accept path counts and logs them in one place.

use mesh_model::inbound::Denied;
use mesh_net::connect::ConnectError;
use mesh_wire::transport_header::InvalidHeader;
use std::{io, net::SocketAddr};

/// Why an inbound connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not know where the client wanted to go.
    #[error("no original destination: {0}")]
    OrigDst(#[source] io::Error),
    /// The client wanted to go to another Pod.
    #[error("{0} is no address of this Pod")]
    Foreign(SocketAddr),
    /// A client asked for the proxy's own port.
    #[error("inbound connection must not target port {0}")]
    TargetsProxy(u16),
    /// No first bytes in time.
    #[error("TLS detection timed out")]
    TlsTimeout,
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// A connection to the inbound port itself that is not as it must be.
    #[error("{0}")]
    Direct(#[from] DirectRefusal),
    /// Policy.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// The application does not take the connection.
    #[error("cannot connect to the application: {0}")]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// HTTP broke.
    #[error("{0}")]
    Http(#[from] mesh_http::Error),
}

/// Why a connection to the inbound port itself is refused.
#[derive(Debug, thiserror::Error)]
pub enum DirectRefusal {
    /// No TLS.
    #[error("direct connections must be mutually authenticated; the client sent no TLS")]
    Plaintext,
    /// TLS for another name.
    #[error("direct connections must be mutually authenticated; the client asked for {0}")]
    WrongName(String),
    /// TLS without a client certificate.
    #[error("direct connections must be mutually authenticated; the client showed no certificate")]
    Anonymous,
    /// The handshake failed: an unknown root, an expired certificate.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// No agreement on a transport header.
    #[error("direct connections require transport header negotiation")]
    NoAlpn,
    /// The header did not come in time.
    #[error("the transport header did not come in time")]
    HeaderTimeout,
    /// The connection ended within the header.
    #[error("the connection ended before the transport header")]
    HeaderEnded,
    /// The header cannot be used.
    #[error("{0}")]
    Header(#[from] InvalidHeader),
    /// A name, where no gateway is.
    #[error("bad gateway domain: this proxy is no gateway")]
    NoGateway,
}

impl Error {
    /// The `error` label of `inbound_tcp_errors_total`; `None` where another family counts it.
    pub(crate) fn label(&self) -> Option<&'static str> {
        match self {
            Self::OrigDst(_) | Self::Foreign(_) | Self::TargetsProxy(_) => Some("unexpected"),
            Self::TlsTimeout => Some("tls detection timeout"),
            Self::Direct(DirectRefusal::NoGateway) => Some("gateway domain invalid"),
            Self::Direct(DirectRefusal::Handshake(_)) | Self::Handshake(_) => Some("i/o"),
            Self::Direct(_) => Some("unexpected"),
            Self::Denied(_) => None,
            Self::Connect(_) | Self::Io(_) => Some("i/o"),
            Self::Http(error) => Some(error.kind()),
        }
    }
}

impl DirectRefusal {
    /// The `reason` label of `inbound_direct_refusals_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::WrongName(_) => "wrong_sni",
            Self::Anonymous => "no_client_certificate",
            Self::Handshake(_) => "handshake",
            Self::NoAlpn => "no_alpn",
            Self::HeaderTimeout => "header_timeout",
            Self::HeaderEnded => "header_missing",
            Self::Header(InvalidHeader::TooLong(_)) => "header_too_long",
            Self::Header(_) => "header_malformed",
            Self::NoGateway => "no_gateway",
        }
    }
}
