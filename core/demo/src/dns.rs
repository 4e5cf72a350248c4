//! # Names
//!
//! Job: the address of a name, as the Pod's /etc/resolv.conf has it looked up. The C library's own
//! look-up is not in a static program.
//! May touch: the resolver. Callers: the client, the protocol trial.

use hickory_resolver::TokioResolver;
use std::{io, net::IpAddr};

/// The first address of `host`, which may be an address already.
///
/// # Errors
/// When the resolver is not configured, or nobody knows the name.
pub async fn address(host: &str) -> io::Result<IpAddr> {
    let host = host.trim_matches(['[', ']']);
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let resolver =
        TokioResolver::builder_tokio().and_then(|b| b.build()).map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    found
        .iter()
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")))
}
