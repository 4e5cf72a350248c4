//! # Dialling a gateway
//!
//! Job: what the probe asks of the world: a byte stream to an address whose peer proved an identity.
//! May touch: nothing itself. Callers: `driver.rs` uses it; whoever holds certificates implements it.

use super::Failure;
use futures::future::BoxFuture;
use mesh_model::identity::Identity;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected, authenticated stream.
pub type Stream = Box<dyn Io>;

/// Bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens mesh TLS connections without ALPN.
pub trait Dial: Send + Sync + 'static {
    /// Connects and verifies that the peer proves `identity`. The caller bounds the time.
    fn dial(
        &self,
        addr: SocketAddr,
        identity: &Identity,
    ) -> BoxFuture<'static, Result<Stream, Failure>>;
}
