//! # A name server under the test's control
//!
//! Job: answer every question as the test says. Must not touch: anything but loopback.
//! Callers: the tests of control planes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::UdpSocket, sync::watch};

/// How questions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Silence,
    ServFail,
    NxDomain,
    /// One address, to be forgotten at once.
    Address(Ipv4Addr),
}

pub(crate) struct Dns {
    pub(crate) addr: SocketAddr,
    mode: watch::Sender<Mode>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    pub(crate) async fn start(mode: Mode) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let (mode, now) = watch::channel(mode);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        tokio::spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mode = *now.borrow();
                if let Some(answer) = answer(&question[..length], mode) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { addr, mode, asked }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Questions so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The message of RFC 1035, section 4: the question again, and perhaps an address.
fn answer(question: &[u8], mode: Mode) -> Option<Vec<u8>> {
    let name = 12 + question.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let is_a = question.get(name..name + 2)? == [0, 1];
    let (code, address) = match mode {
        Mode::Silence => return None,
        Mode::ServFail => (2, None),
        Mode::NxDomain => (3, None),
        Mode::Address(address) => (0, is_a.then_some(address)),
    };
    let mut message = question[..2].to_vec();
    message.extend([0x81, 0x80 | code, 0, 1, 0, address.is_some().into(), 0, 0, 0, 0]);
    message.extend(&question[12..name + 4]);
    if let Some(address) = address {
        // The name of the question, type A, class IN, TTL 0.
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        message.extend(address.octets());
    }
    Some(message)
}
