//! # Endpoints
//!
//! Job: one address that can serve a destination, with all that a client must know to reach it, and
//! the updates a destination stream carries.
//! May touch: values. Must not touch: sockets. Callers: destination, the balancer, the gateway.

use crate::{
    authority::NameAddr,
    identity::{DnsName, Identity},
};
use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

/// Metric labels in key order (without the `dst_` prefix).
pub type Labels = Arc<BTreeMap<String, String>>;

/// One address of a destination (`destination.WeightedAddr`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the application (or the gateway) listens.
    pub addr: SocketAddr,
    /// What discovery says of it.
    pub metadata: Arc<EndpointMetadata>,
}

/// Everything about an endpoint but its address. Equal metadata means that existing connections stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointMetadata {
    /// Expected server identity; `None` means plaintext.
    pub tls: Option<TlsTarget>,
    /// How the peer wants HTTP to arrive.
    pub hint: ProtocolHint,
    /// The peer's inbound proxy port, where a transport header is accepted.
    pub opaque_transport: Option<NonZeroU16>,
    /// Name and port of the Service behind a gateway.
    pub authority_override: Option<NameAddr>,
    /// HTTP/2 client settings asked for by the control plane.
    pub http2: Http2Params,
    /// Labels of address and set merged, the address's winning.
    pub labels: Labels,
    /// Relative weight in 1/10000.
    pub weight: u32,
}

/// Whom a client expects at the other end of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsTarget {
    /// Must be among the leaf's SANs.
    pub id: Identity,
    /// Sent as SNI.
    pub server_name: DnsName,
}

/// `destination.ProtocolHint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolHint {
    /// Nothing known: keep the protocol as it came.
    #[default]
    Unknown,
    /// Carry all HTTP over HTTP/2.
    Http2,
    /// Do not treat as HTTP.
    Opaque,
}

/// `http2.Http2ClientParams`, the part with effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Http2Params {
    /// PING interval and timeout, and whether to ping without streams.
    pub keep_alive: Option<KeepAlive>,
    /// Stream window, bytes.
    pub initial_stream_window: Option<u32>,
    /// Connection window, bytes.
    pub initial_connection_window: Option<u32>,
}

/// HTTP/2 keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// Time between PINGs.
    pub interval: Duration,
    /// Time to wait for the answer before the connection is closed.
    pub timeout: Duration,
    /// Also without open streams.
    pub while_idle: bool,
}

/// One message of a destination stream (`destination.Update`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointUpdate {
    /// Insert or replace.
    Add(Vec<Endpoint>),
    /// Take away.
    Remove(Vec<SocketAddr>),
    /// The destination has none; `exists` tells an empty Service from an unknown one.
    NoEndpoints {
        /// Whether the Service exists.
        exists: bool,
    },
}

/// The endpoints of a destination as a client sees them now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSet {
    /// Known endpoints (possibly none).
    Known(BTreeMap<SocketAddr, Arc<EndpointMetadata>>),
    /// The destination does not exist.
    Unknown,
}
