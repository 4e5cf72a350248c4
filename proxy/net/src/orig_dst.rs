//! # Original destination
//!
//! Job: where a redirected connection wanted to go.
//! May touch: one socket option. Must not touch: the connection's bytes. Callers: inbound, outbound.

use crate::listen::{Accepted, unmapped};
use mesh_process::context::Interception;
use socket2::SockRef;
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// Where the client wanted to go before any redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(pub SocketAddr);

/// Where the original destination is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// From the kernel's connection tracking. A failure drops the connection: falling back to the socket's
    /// own address would let whoever dials the proxy's port directly pass as redirected.
    #[default]
    Redirect,
    /// The address that the client reached: a gateway, or a place without redirect rules.
    Local,
}

impl From<Interception> for Source {
    fn from(interception: Interception) -> Self {
        match interception {
            Interception::Redirect => Self::Redirect,
            Interception::None => Self::Local,
        }
    }
}

/// The original destination of a connection.
///
/// # Errors
/// When the kernel knows none (the connection was not redirected).
pub fn of(accepted: &Accepted, source: Source) -> io::Result<OrigDst> {
    match source {
        Source::Local => Ok(OrigDst(accepted.local)),
        Source::Redirect => asked(accepted),
    }
}

fn asked(accepted: &Accepted) -> io::Result<OrigDst> {
    let socket = SockRef::from(&accepted.io);
    // The peer has been unmapped, so a v4 client of a v6 socket takes the v4 table.
    let found = match accepted.peer.ip() {
        IpAddr::V4(_) => socket.original_dst_v4()?,
        IpAddr::V6(_) => socket.original_dst_v6()?,
    };
    found
        .as_socket()
        .map(|addr| OrigDst(unmapped(addr)))
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no original destination"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{ListenOptions, bind};
    use mesh_process::context::PodContext;

    // proves: NET-2
    #[tokio::test]
    async fn a_direct_connection_has_no_original_destination_unless_local_is_asked_for() {
        let any = "127.0.0.1:0".parse().unwrap();
        let bound = bind(&PodContext::default(), any, ListenOptions::default()).unwrap();
        let _client = tokio::net::TcpStream::connect(bound.local()).await.unwrap();
        let accepted = bound.listener().unwrap().accept().await;
        assert_eq!(of(&accepted, Source::Local).unwrap(), OrigDst(bound.local()));
        // Where the kernel tracks connections (any NAT rule on the host will do), it names the address itself.
        let asked = of(&accepted, Source::Redirect);
        assert!(asked.is_err() || asked.unwrap() == OrigDst(bound.local()));
    }
}
