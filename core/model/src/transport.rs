//! # Transport header
//!
//! Job: what a client tells a proxy's inbound port about the connection that follows.
//! May touch: values. The bytes are `wire`'s. Callers: outbound connect, inbound direct, gateway.

use crate::identity::DnsName;
use std::num::NonZeroU16;

/// ALPN protocol that announces a [`TransportHeader`].
pub const TRANSPORT_ALPN: &[u8] = b"transport.l5d.io/v1";

/// First message on a connection whose ALPN is [`TRANSPORT_ALPN`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TransportHeader {
    /// Port the client wants.
    pub port: NonZeroU16,
    /// Target name; only gateways accept one.
    pub name: Option<DnsName>,
    /// What follows; `None` is opaque bytes.
    pub protocol: Option<SessionProtocol>,
}

/// Protocol that follows a transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionProtocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl SessionProtocol {
    /// The metric label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
        }
    }
}
