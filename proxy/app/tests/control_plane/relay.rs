//! # A relay before the control plane
//!
//! Job: connections go to whom the test says: a control plane, or one that misbehaves; a change cuts those
//! that are open. Must not touch: anything but loopback. Callers: the tests of control planes.

use crate::{garbage::Garbage, plane::fresh_ip};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Where connections lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Plane(SocketAddr),
    Garbage(Garbage),
}

pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    to: watch::Sender<To>,
    accepted: Arc<AtomicUsize>,
}

impl Relay {
    pub(crate) async fn start(to: To) -> Self {
        let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (to, target) = watch::channel(to);
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(io, target.clone()));
            }
        });
        Self { addr, to, accepted }
    }

    pub(crate) fn set(&self, to: To) {
        self.to.send_replace(to);
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn carry(mut io: TcpStream, mut target: watch::Receiver<To>) {
    let to = *target.borrow_and_update();
    let carried = async {
        match to {
            To::Plane(addr) => forward(&mut io, addr).await,
            To::Garbage(garbage) => {
                // A proxy that closes ends it.
                let _ = garbage.play(&mut io).await;
            }
        }
    };
    tokio::select! {
        () = carried => {}
        _ = target.changed() => {}
    }
}

pub(crate) async fn forward(io: &mut TcpStream, addr: SocketAddr) {
    if let Ok(mut far) = TcpStream::connect(addr).await {
        let _ = tokio::io::copy_bidirectional(io, &mut far).await;
    }
}
