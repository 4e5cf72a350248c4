//! # Socket options
//!
//! Job: the options that every data-plane socket carries, and the one that has no safe wrapper.
//! May touch: setsockopt. Must not touch: anything else.
//! Callers: `listen`, `connect`.

use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};

/// How long the kernel keeps a silent or unacknowledged connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// Idle time before keep-alive probes, and between them; keep-alive itself is always on.
    pub keepalive: Option<Duration>,
    /// Unacknowledged data older than this ends the connection (`TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

/// Sets what every stream carries: no delay, keep-alive, user timeout.
pub(crate) fn stream(socket: SockRef<'_>, liveness: Liveness) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(time) = liveness.keepalive {
        let times = TcpKeepalive::new().with_time(time).with_interval(time);
        socket.set_tcp_keepalive(&times)?;
    }
    if liveness.user_timeout.is_some() {
        socket.set_tcp_user_timeout(liveness.user_timeout)?;
    }
    Ok(())
}

/// Lets the kernel choose the source port at connect time, when the peer is known: a bound source address
/// then limits connections per peer, not in all.
#[allow(unsafe_code)] // setsockopt with an option that socket2 does not know
pub(crate) fn bind_address_no_port(socket: SockRef<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the life of `socket`, and the option value is one int that
    // lives past the call, its size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
