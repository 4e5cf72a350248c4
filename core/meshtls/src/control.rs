//! # Control-plane ports
//!
//! Job: the connections of a gRPC port: the first bytes decide. A ClientHello for our name gets mesh TLS;
//! plaintext is accepted from this host (port-forward) only, or from the Pod's own address with a flag.
//! May touch: the listener handed in. Must not touch: gRPC services.
//! Callers: identity, destination, policy, for tonic's `serve_with_incoming`.

mod io;

use crate::{
    credentials::Credentials,
    error::TlsError,
    prefixed::Prefixed,
    sni::{self, Peek},
    stream::{AlpnMode, accept},
};
use bytes::BytesMut;
use futures::Stream;
pub use io::{ControlInfo, ControlIo};
use mesh_process::drain;
use std::{
    io as std_io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Rules of a port.
#[derive(Clone, Copy, Debug)]
pub struct ControlConfig {
    /// Refuse mesh clients without a certificate. The identity service must not.
    pub require_client: bool,
    /// Accept plaintext from the Pod's own address, for charts that put a sidecar in front.
    pub plaintext_from_own: bool,
    /// Most handshakes at once; more wait in the kernel's backlog.
    pub handshakes: usize,
    /// Longest wait for the first bytes and the handshake.
    pub deadline: Duration,
}

/// Accepts the connections of one control-plane port.
#[derive(Debug)]
pub struct ControlAcceptor {
    listener: TcpListener,
    credentials: Option<Credentials>,
    config: ControlConfig,
}

/// Why a connection was closed before gRPC saw it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("nothing came within {0:?}")]
    Slow(Duration),
    #[error("the connection broke: {0}")]
    Io(#[from] std_io::Error),
    #[error("plaintext is accepted from this host only")]
    Plaintext,
    #[error("the client asked for `{0}`")]
    Name(String),
    #[error("the client named nobody")]
    NoName,
    #[error("the client showed no certificate")]
    NoCertificate,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Default for ControlConfig {
    /// Clients need a certificate; 256 handshakes of at most 5 s.
    fn default() -> Self {
        Self {
            require_client: true,
            plaintext_from_own: false,
            handshakes: 256,
            deadline: Duration::from_secs(5),
        }
    }
}

impl ControlAcceptor {
    /// For a bound listener.
    pub fn new(listener: TcpListener, credentials: Credentials, config: ControlConfig) -> Self {
        Self { listener, credentials: Some(credentials), config }
    }

    /// For a process without an identity of its own: plaintext under the same rules, no TLS.
    pub fn plaintext(listener: TcpListener, config: ControlConfig) -> Self {
        Self { listener, credentials: None, config }
    }

    /// Where the port is.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> std_io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The connections, until the drain starts. Must be called within a runtime.
    pub fn incoming(
        self,
        drain: drain::Watch,
    ) -> impl Stream<Item = std_io::Result<ControlIo>> + Send + Unpin + 'static {
        let (accepted, connections) = mpsc::channel(BACKLOG);
        tokio::spawn(self.run(accepted, drain));
        Box::pin(futures::stream::unfold(connections, |mut connections| async move {
            connections.recv().await.map(|io| (Ok(io), connections))
        }))
    }

    async fn run(self, accepted: mpsc::Sender<ControlIo>, drain: drain::Watch) {
        let slots = Arc::new(Semaphore::new(self.config.handshakes));
        let stop = drain.signaled();
        tokio::pin!(stop);
        loop {
            let next = async {
                let slot = slots.clone().acquire_owned().await.map_err(std_io::Error::other)?;
                self.listener.accept().await.map(|(stream, peer)| (stream, peer, slot))
            };
            let (stream, peer, slot) = tokio::select! {
                _ = &mut stop => return,
                () = accepted.closed() => return,
                next = next => match next {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::warn!(%error, "Accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (accepted, credentials, config) =
                (accepted.clone(), self.credentials.clone(), self.config);
            tokio::spawn(async move {
                match handshake(stream, peer, credentials.as_ref(), &config).await {
                    // Nobody receives any more: the server has ended.
                    Ok(io) => drop(accepted.send(io).await),
                    Err(refusal) => tracing::debug!(%peer, %refusal, "Connection refused"),
                }
                drop(slot);
            });
        }
    }
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    credentials: Option<&Credentials>,
    config: &ControlConfig,
) -> Result<ControlIo, Refusal> {
    let decided = timeout(config.deadline, decide(stream, peer, credentials, config));
    decided.await.map_err(|_| Refusal::Slow(config.deadline))?
}

async fn decide(
    mut stream: TcpStream,
    peer: SocketAddr,
    credentials: Option<&Credentials>,
    config: &ControlConfig,
) -> Result<ControlIo, Refusal> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut first = BytesMut::new();
    let peeked = sni::detect(&mut stream, &mut first).await?;
    let io = Prefixed::new(first.freeze(), stream);
    match (peeked, credentials) {
        (Peek::Sni(name), Some(credentials)) if name == *credentials.server_name() => {
            credentials.ready().await;
            let accepted = accept(io, credentials, AlpnMode::None).await?;
            if accepted.client.is_none() && config.require_client {
                return Err(Refusal::NoCertificate);
            }
            Ok(ControlIo::tls(accepted, peer))
        }
        (Peek::Sni(name), _) => Err(Refusal::Name(name.to_string())),
        (Peek::NoSni, _) => Err(Refusal::NoName),
        (Peek::NotTls | Peek::Incomplete, _) => {
            let own = config.plaintext_from_own && peer.ip() == local.ip();
            if own || is_this_host(peer.ip()) {
                Ok(ControlIo::plain(io, peer))
            } else {
                Err(Refusal::Plaintext)
            }
        }
    }
}

/// 127.0.0.1 and ::1 only: in the sandbox the rest of 127.0.0.0/8 are Pods.
fn is_this_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

const BACKLOG: usize = 16;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
