//! # A netlink socket
//!
//! Job: one exchange with the kernel. Answers lie in the socket when a write returns, so nothing waits.
//! May touch: one netlink socket. Must not touch: what messages mean. Callers: `nftables`, tests.

use super::{Answer, Message, answers, encode};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};
use std::{io, os::fd::OwnedFd};

/// A socket to one part of the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// To netfilter.
    ///
    /// # Errors
    /// When the kernel has no such part, or sockets are out.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// To links, addresses and routes.
    ///
    /// # Errors
    /// When sockets are out.
    pub fn route() -> io::Result<Self> {
        // Its number is 0, which is what no number means.
        Self::open(None)
    }

    fn open(part: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        Ok(Self(socket_with(kind.0, kind.1, kind.2, part)?))
    }

    /// Sends messages as one write and gives what the kernel said to them.
    ///
    /// # Errors
    /// When they cannot be written, or more answers come than the socket holds.
    pub fn exchange(&self, messages: &[Message]) -> io::Result<Vec<Answer>> {
        send(&self.0, &encode(messages), SendFlags::empty())?;
        let mut buffer = vec![0_u8; READ];
        let mut found = Vec::new();
        loop {
            match recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((read, _)) => found.extend(answers(&buffer[..read])),
                Err(Errno::AGAIN) => return Ok(found),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Room for one read; the kernel writes no more than 32 KiB at once.
const READ: usize = 64 * 1024;
