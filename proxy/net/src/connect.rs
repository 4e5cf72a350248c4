//! # Connecting
//!
//! Job: open a TCP connection with the right source address, options and deadline.
//! May touch: sockets. Must not touch: TLS, what is spoken. Callers: inbound, outbound, control clients.

use crate::sockopt::{self, Liveness};
use socket2::SockRef;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// How connections are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Source address, so that peers see who calls; used if of the same family as the target.
    pub source: Option<IpAddr>,
    /// Longest time for the TCP handshake.
    pub timeout: Duration,
    /// Options of the stream.
    pub liveness: Liveness,
}

/// Why no connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing answered in time.
    #[error("connect timed out after {0:?}")]
    Timeout(Duration),
    /// The operating system says why.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The target is this host's loopback, where outbound traffic must not loop to.
    #[error("connecting to the loopback address {0} is refused")]
    Loopback(SocketAddr),
}

/// Opens a connection to `addr`.
///
/// # Errors
/// On timeout or as the operating system says.
pub async fn connect(
    addr: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    let socket = open(addr, options)?;
    match tokio::time::timeout(options.timeout, socket.connect(addr)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(ConnectError::Timeout(options.timeout)),
    }
}

/// As [`connect`], refusing 127.0.0.1 and ::1: a Pod's proxy must not send outbound traffic to its own
/// loopback. Other addresses of 127/8 are peers like any other.
///
/// # Errors
/// As [`connect`], and for loopback targets.
pub async fn connect_remote(
    addr: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    if is_own_loopback(addr.ip()) {
        return Err(ConnectError::Loopback(addr));
    }
    connect(addr, options).await
}

/// Whether the address is 127.0.0.1 or ::1: "loopback" in every rule means these two.
pub fn is_own_loopback(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip == std::net::Ipv4Addr::LOCALHOST,
        IpAddr::V6(ip) => ip == std::net::Ipv6Addr::LOCALHOST,
    }
}

fn open(addr: SocketAddr, options: &ConnectOptions) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    sockopt::stream(SockRef::from(&socket), options.liveness)?;
    if let Some(source) = options.source.filter(|s| s.is_ipv4() == addr.is_ipv4()) {
        sockopt::bind_address_no_port(SockRef::from(&socket))?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ConnectOptions {
        ConnectOptions {
            source: Some([127, 44, 1, 9].into()),
            timeout: Duration::from_millis(50),
            liveness: Liveness::default(),
        }
    }

    // proves: NET-3
    #[tokio::test]
    async fn peers_see_the_source_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let stream = connect(to, &options()).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.44.1.9");
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.44.1.9");
    }

    // proves: NET-3
    #[tokio::test]
    async fn refusals_and_loopback_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        assert!(matches!(connect_remote(to, &options()).await, Err(ConnectError::Loopback(_))));
        let other = SocketAddr::new([127, 44, 1, 10].into(), to.port());
        match connect_remote(other, &options()).await {
            Err(ConnectError::Io(e)) => assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused),
            other => panic!("{other:?}"),
        }
    }
}
