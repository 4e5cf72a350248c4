//! # A connection of a control-plane port
//!
//! Job: TLS or plain, with what handlers may ask of the peer. May touch: the stream. Callers: `control`.

use crate::{prefixed::Prefixed, stream::Accepted};
use mesh_model::identity::Identity;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A connection that passed the port's rules.
#[derive(Debug)]
pub struct ControlIo {
    stream: Stream,
    info: ControlInfo,
}

/// Who is at the other end; tonic puts it into each request's extensions.
#[derive(Clone, Debug)]
pub struct ControlInfo {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The verified identity, if the client showed a certificate.
    pub client: Option<Identity>,
    /// Whether the connection is mesh TLS.
    pub tls: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(Prefixed<TcpStream>),
    Tls(Box<TlsStream<Prefixed<TcpStream>>>),
}

impl ControlIo {
    pub(super) fn plain(io: Prefixed<TcpStream>, peer: SocketAddr) -> Self {
        let info = ControlInfo { peer, client: None, tls: false };
        Self { stream: Stream::Plain(io), info }
    }

    pub(super) fn tls(accepted: Accepted<Prefixed<TcpStream>>, peer: SocketAddr) -> Self {
        let info = ControlInfo { peer, client: accepted.client, tls: true };
        Self { stream: Stream::Tls(Box::new(accepted.io)), info }
    }

    /// Who is at the other end.
    pub fn info(&self) -> &ControlInfo {
        &self.info
    }
}

impl tonic::transport::server::Connected for ControlIo {
    type ConnectInfo = ControlInfo;

    fn connect_info(&self) -> ControlInfo {
        self.info.clone()
    }
}

impl AsyncRead for ControlIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ControlIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_flush(cx),
            Stream::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
