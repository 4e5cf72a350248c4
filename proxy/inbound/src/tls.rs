//! # TLS of a connection
//!
//! Job: look at the first bytes and tell our TLS, someone else's TLS and plaintext apart.
//! May touch: the first bytes, which are given back. Must not touch: policy. Callers: sidecar, direct.

use bytes::BytesMut;
use mesh_meshtls::sni::{self, Peek};
use mesh_model::identity::DnsName;
use mesh_net::io::Prefixed;
use std::io;
use tokio::io::AsyncRead;

/// What the first bytes are.
#[derive(Debug)]
pub(crate) enum FirstBytes {
    /// A ClientHello for us.
    Ours,
    /// A ClientHello for another name.
    Other(DnsName),
    /// Anything else.
    Plain,
    /// The client closed without a word.
    Nothing,
}

/// Reads until the first bytes tell what they are. The caller sets the deadline.
pub(crate) async fn detect<I: AsyncRead + Unpin>(
    mut io: I,
    own: &DnsName,
) -> io::Result<(FirstBytes, Prefixed<I>)> {
    let mut seen = BytesMut::new();
    let kind = match sni::detect(&mut io, &mut seen).await? {
        _ if seen.is_empty() => FirstBytes::Nothing,
        Peek::Sni(name) if name == *own => FirstBytes::Ours,
        Peek::Sni(name) => FirstBytes::Other(name),
        Peek::NotTls | Peek::NoSni | Peek::Incomplete => FirstBytes::Plain,
    };
    Ok((kind, Prefixed::new(seen.freeze(), io)))
}
