//! # Connections to the proxy's own port
//!
//! Job: mutual TLS under our name, agreement on a transport header, the header; then the application port
//! that it names, or, with a name, the gateway.
//! May touch: the connection up to the end of the header. Must not touch: what follows.
//! Callers: `sidecar`.

use crate::{
    connection::{Connection, OtherTls},
    error::{DirectRefusal, Error},
    gateway::Gateway,
    http::{self, ToGateway},
    sidecar::{Inbound, Shared, bounded, tracked},
    tcp,
    tls::{self, FirstBytes},
};
use ::http::uri;
use bytes::BytesMut;
use mesh_http::detect::HttpVersion;
use mesh_meshtls::AlpnMode;
use mesh_model::{
    authority::NameAddr,
    identity::Identity,
    inbound::ClientTls,
    transport::{SessionProtocol, TransportHeader},
};
use mesh_net::{io::Prefixed, listen::Accepted};
use mesh_observe::{NoTls, TransportHeaderLabels};
use mesh_process::drain;
use mesh_stack::io::{BoxedIo, Io};
use mesh_wire::transport_header;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};

/// Serves a connection whose destination is the inbound port itself.
pub(crate) async fn serve<G: Gateway>(
    inbound: Inbound<G>,
    accepted: Accepted,
    own: SocketAddr,
    drain: drain::Watch,
) -> Result<(), Error> {
    let shared = inbound.shared.clone();
    let client = accepted.peer;
    let deadline = Instant::now() + bounded(shared.config.detect_timeout);
    let Some((identity, io)) = authenticate(&shared, accepted, deadline).await? else {
        return Ok(());
    };
    let (header, io) = read_header(io, deadline).await?;
    shared
        .metrics
        .detect
        .transport_header(TransportHeaderLabels { header: &header, client: &identity });
    let target = match &header.name {
        None if shared.config.is_own(header.port) => {
            return Err(Error::TargetsProxy(header.port.get()));
        }
        None => SocketAddr::new(own.ip(), header.port.get()),
        Some(_) => own,
    };
    let connection = Connection {
        policy: shared.policies.get(target.port()).await,
        shared,
        client,
        target,
        tls: ClientTls::Mesh { client: Some(identity.clone()) },
        other: OtherTls::None(NoTls::NotFromRemote),
    };
    let (connection, io) = tracked(connection, io);
    match header {
        TransportHeader { name: None, protocol: Some(protocol), .. } => {
            inbound.requests(connection, version(protocol), io, drain).await
        }
        TransportHeader { name: None, protocol: None, .. } => {
            let forwarded = tcp::forward(&connection, io).await;
            drop(drain);
            forwarded
        }
        TransportHeader { name: Some(name), port, protocol } => {
            let gateway = inbound.gateway.ok_or(DirectRefusal::NoGateway)?;
            let named = Named { target: NameAddr { name, port }, client: identity, protocol };
            onward(connection, gateway, named, io, drain).await
        }
    }
}

/// A connection for the gateway.
struct Named {
    target: NameAddr,
    client: Identity,
    protocol: Option<SessionProtocol>,
}

async fn onward<G: Gateway>(
    connection: Connection,
    gateway: G,
    named: Named,
    io: BoxedIo,
    drain: drain::Watch,
) -> Result<(), Error> {
    match named.protocol {
        Some(protocol) => {
            let route = gateway.open(&named.target, &named.client).await;
            let authority = authority_of(&named.target);
            let next = ToGateway(gateway, route);
            http::serve(connection, None, next, authority, version(protocol), io, drain).await
        }
        None => {
            let tunnelled = tcp::while_allowed(&connection, async {
                let route = gateway.open(&named.target, &named.client).await;
                Ok(gateway.tunnel(&route, io).await?)
            });
            let tunnelled = tunnelled.await;
            drop(drain);
            tunnelled
        }
    }
}

/// Mutual TLS with agreement on a transport header; `None` if the client left without a word.
async fn authenticate(
    shared: &Arc<Shared>,
    accepted: Accepted,
    deadline: Instant,
) -> Result<Option<(Identity, BoxedIo)>, Error> {
    let detected = timeout_at(deadline, tls::detect(accepted.io, &shared.config.server_name)).await;
    let (kind, io) = detected.map_err(|_| Error::TlsTimeout)??;
    match kind {
        FirstBytes::Ours => {}
        FirstBytes::Nothing => return Ok(None),
        FirstBytes::Plain => return Err(DirectRefusal::Plaintext.into()),
        FirstBytes::Other(name) => return Err(DirectRefusal::WrongName(name.to_string()).into()),
    }
    let accept = mesh_meshtls::accept(io, &shared.credentials, AlpnMode::TransportHeader);
    let tls = timeout_at(deadline, accept).await.map_err(|_| Error::TlsTimeout)?;
    let tls = tls.map_err(|e| DirectRefusal::Handshake(e.to_string()))?;
    let identity = tls.client.ok_or(DirectRefusal::Anonymous)?;
    if !tls.alpn_transport {
        return Err(DirectRefusal::NoAlpn.into());
    }
    Ok(Some((identity, BoxedIo::new(tls.io))))
}

/// Reads the header, bounded in size by its codec and in time by `deadline`.
async fn read_header<I: AsyncRead + Unpin + Io>(
    mut io: I,
    deadline: Instant,
) -> Result<(TransportHeader, Prefixed<I>), Error> {
    let mut buf = BytesMut::with_capacity(FIRST_READ);
    loop {
        if let Some(header) = transport_header::decode(&mut buf).map_err(DirectRefusal::from)? {
            return Ok((header, Prefixed::new(buf.freeze(), io)));
        }
        buf.reserve(FIRST_READ);
        let read = timeout_at(deadline, io.read_buf(&mut buf)).await;
        let read = read.map_err(|_| DirectRefusal::HeaderTimeout)?;
        // A peer that breaks off here has, in effect, sent no header.
        if read.unwrap_or(0) == 0 {
            return Err(DirectRefusal::HeaderEnded.into());
        }
    }
}

/// A header with its first request fits.
const FIRST_READ: usize = 1024;

fn version(protocol: SessionProtocol) -> HttpVersion {
    match protocol {
        SessionProtocol::Http1 => HttpVersion::Http1,
        SessionProtocol::Http2 => HttpVersion::Http2,
    }
}

/// `name:port`, without port 80.
fn authority_of(target: &NameAddr) -> uri::Authority {
    let text = match target.port.get() {
        80 => target.name.to_string(),
        _ => target.to_string(),
    };
    // A DNS name with a port always is an authority.
    uri::Authority::try_from(text).unwrap_or(uri::Authority::from_static("localhost"))
}
