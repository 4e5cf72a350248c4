//! # Listening
//!
//! Job: bind a listener once, share it among workers, accept with the right socket options.
//! May touch: sockets. Must not touch: what is spoken on them. Callers: inbound, outbound, admin.

pub use crate::sockopt::Liveness;

use crate::sockopt;
use mesh_process::context::PodContext;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// Options of a listener and of the streams that it accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Options of accepted streams.
    pub liveness: Liveness,
    /// Length of the kernel's queue; `None` takes the platform's maximum.
    pub backlog: Option<u32>,
}

/// A bound socket, exclusive to this process: SO_REUSEPORT would let a second one steal connections in
/// silence. Connections wait in the kernel until a worker accepts.
#[derive(Debug)]
pub struct Bound {
    socket: StdListener,
    local: SocketAddr,
    liveness: Liveness,
}

/// One worker's share of a [`Bound`] socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    liveness: Liveness,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The stream, options set.
    pub io: TcpStream,
    /// The client.
    pub peer: SocketAddr,
    /// The address that the client reached on this host.
    pub local: SocketAddr,
}

/// Binds `addr`, mapped by the Pod's context.
///
/// # Errors
/// The operating system's; the message names the address.
pub fn bind(pod: &PodContext, addr: SocketAddr, options: ListenOptions) -> io::Result<Bound> {
    let addr = pod.bind(addr);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}"));
    let socket = open(addr, options).map_err(named)?;
    let local = socket.local_addr().map_err(named)?;
    Ok(Bound { socket, local, liveness: options.liveness })
}

fn open(addr: SocketAddr, options: ListenOptions) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    let backlog = options.backlog.map_or(libc::SOMAXCONN, |n| n.min(i32::MAX as u32) as i32);
    socket.listen(backlog)?;
    Ok(socket.into())
}

impl Bound {
    /// The bound address, with the port that the kernel chose if it was 0.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// A listener for the runtime that calls this. Each worker takes its own.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn listener(&self) -> io::Result<Listener> {
        let socket = TcpListener::from_std(self.socket.try_clone()?)?;
        Ok(Listener { socket, liveness: self.liveness })
    }
}

impl Listener {
    /// The next connection. Failures to accept never end a listener: those of one connection are
    /// skipped, a lack of descriptors is waited out.
    pub async fn accept(&self) -> Accepted {
        loop {
            match self.try_accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// The bound address.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn try_accept(&self) -> io::Result<Accepted> {
        let (io, peer) = self.socket.accept().await?;
        sockopt::stream(SockRef::from(&io), self.liveness)?;
        let local = io.local_addr()?;
        Ok(Accepted { io, peer: unmapped(peer), local: unmapped(local) })
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::NotConnected
    ) || error.raw_os_error() == Some(libc::EINVAL)
}

/// An IPv4 address that came in on an IPv6 socket, as IPv4.
pub(crate) fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    // proves: NET-1
    #[tokio::test]
    async fn one_socket_serves_several_workers_and_nobody_else_can_bind_it() {
        let pod = PodContext::default();
        let bound = bind(&pod, "127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let error = bind(&pod, bound.local(), ListenOptions::default()).unwrap_err();
        assert!(error.to_string().contains(&bound.local().to_string()), "{error}");

        let (one, two) = (bound.listener().unwrap(), bound.listener().unwrap());
        let dial = || TcpStream::connect(bound.local());
        let (a, b) = (dial().await.unwrap(), dial().await.unwrap());
        let accepted: HashSet<_> = [one.accept().await.peer, two.accept().await.peer].into();
        assert_eq!(accepted, [a.local_addr().unwrap(), b.local_addr().unwrap()].into());
    }

    // proves: NET-1
    #[tokio::test]
    async fn accepted_streams_carry_the_options() {
        let liveness = Liveness {
            keepalive: Some(Duration::from_secs(10)),
            user_timeout: Some(Duration::from_secs(30)),
        };
        let options = ListenOptions { liveness, backlog: Some(16) };
        let bound = bind(&PodContext::default(), "[::]:0".parse().unwrap(), options).unwrap();
        let to = SocketAddr::new([127, 0, 0, 1].into(), bound.local().port());
        let _client = TcpStream::connect(to).await.unwrap();
        let accepted = bound.listener().unwrap().accept().await;
        assert!(accepted.peer.is_ipv4() && accepted.local == to);
        let socket = SockRef::from(&accepted.io);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
    }
}
