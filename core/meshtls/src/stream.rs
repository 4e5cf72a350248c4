//! # Accept and connect
//!
//! Job: one mesh TLS handshake over a stream, and who is at the other end.
//! May touch: the stream. Must not touch: sockets, policies. Callers: inbound, outbound, control ports.

use crate::{
    credentials::{Credentials, HANDSHAKE_TIMEOUT},
    error::TlsError,
};
use mesh_model::{endpoint::TlsTarget, identity::Identity, transport::TRANSPORT_ALPN};
use mesh_pki::Certificate;
use rustls::CommonState;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Whether a server agrees to the transport header's ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlpnMode {
    /// No ALPN is selected, whatever the client offers.
    None,
    /// `transport.l5d.io/v1` is selected if the client offers it (connections on the proxy's own port).
    TransportHeader,
}

/// A connection from a client.
#[derive(Debug)]
pub struct Accepted<I> {
    /// The stream within TLS.
    pub io: server::TlsStream<I>,
    /// The client's verified identity; `None` if it showed no certificate or one without a name.
    pub client: Option<Identity>,
    /// A transport header follows.
    pub alpn_transport: bool,
}

/// A connection to a server whose identity has been verified.
#[derive(Debug)]
pub struct Connected<I> {
    /// The stream within TLS.
    pub io: client::TlsStream<I>,
    /// The server accepts a transport header.
    pub alpn_transport: bool,
}

/// Accepts a mesh TLS client within 10 s. The SNI must be the own server name.
///
/// # Errors
/// When there is no own certificate, the client's is refused, or the handshake fails or stalls.
pub async fn accept<I>(
    io: I,
    credentials: &Credentials,
    mode: AlpnMode,
) -> Result<Accepted<I>, TlsError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let current = credentials.current()?;
    let config = match mode {
        AlpnMode::None => &current.configs.server,
        AlpnMode::TransportHeader => &current.configs.server_transport,
    };
    // Boxed: a handshake is large and short, and its caller keeps the room as long as the connection.
    let handshake = Box::pin(TlsAcceptor::from(Arc::clone(config)).accept(io));
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| TlsError::Timeout(HANDSHAKE_TIMEOUT))??;
    let state: &CommonState = stream.get_ref().1;
    let client = names(state).into_iter().next();
    let alpn_transport = state.alpn_protocol() == Some(TRANSPORT_ALPN);
    Ok(Accepted { io: stream, client, alpn_transport })
}

/// Connects to a mesh TLS server within 10 s and checks that it is who is expected. Without an own
/// certificate the client is anonymous, which only the identity service accepts.
///
/// # Errors
/// When the server's certificate is refused or names someone else, or the handshake fails or stalls.
pub async fn connect<I>(
    io: I,
    credentials: &Credentials,
    target: &TlsTarget,
    transport_header: bool,
) -> Result<Connected<I>, TlsError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let config = credentials.client(transport_header)?;
    let name = ServerName::try_from(target.server_name.as_str().to_owned())
        .map_err(|e| TlsError::Handshake(rustls::Error::General(e.to_string())))?;
    let handshake = Box::pin(TlsConnector::from(config).connect(name, io));
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| TlsError::Timeout(HANDSHAKE_TIMEOUT))??;
    let state: &CommonState = stream.get_ref().1;
    let found = names(state);
    if !found.contains(&target.id) {
        return Err(TlsError::WrongIdentity {
            expected: target.id.to_string(),
            found: found.iter().map(ToString::to_string).collect(),
        });
    }
    let alpn_transport = state.alpn_protocol() == Some(TRANSPORT_ALPN);
    Ok(Connected { io: stream, alpn_transport })
}

/// The names of the certificate that the handshake has verified.
fn names(state: &CommonState) -> Vec<Identity> {
    let leaf = state.peer_certificates().and_then(<[_]>::first);
    leaf.and_then(|der| Certificate::from_der(der).ok()).map(|c| c.names).unwrap_or_default()
}
