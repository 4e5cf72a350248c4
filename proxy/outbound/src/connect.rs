//! # Connections to endpoints
//!
//! Job: reach one endpoint: TCP, mesh TLS if it has an identity, transport header if its proxy takes one,
//! all under one deadline.
//! May touch: sockets through `net`, TLS through [`Secure`]. Must not touch: what is sent afterwards.
//! Callers: HTTP clients and the TCP balancer, which `backend` makes.

use crate::metrics;
use futures::future::BoxFuture;
use mesh_http::client::{Connect, ConnectFailure};
use mesh_meshtls::Credentials;
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata, EndpointSet, ProtocolHint, TlsTarget},
    transport::{SessionProtocol, TransportHeader},
};
use mesh_net::connect::{ConnectError, ConnectOptions, connect_remote};
use mesh_observe::Metrics;
use mesh_stack::io::BoxedIo;
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};
use tokio::io::AsyncWriteExt;

/// Opens mesh TLS as a client.
pub trait Secure: Send + Sync + 'static {
    /// TLS over `io` to the target, whose identity is proved when this succeeds. With `header`, the ALPN
    /// protocol of the transport header is offered; the flag tells whether the server took it.
    fn secure(
        &self,
        io: BoxedIo,
        target: &TlsTarget,
        header: bool,
    ) -> BoxFuture<'static, io::Result<(BoxedIo, bool)>>;
}

impl Secure for Credentials {
    fn secure(
        &self,
        io: BoxedIo,
        target: &TlsTarget,
        header: bool,
    ) -> BoxFuture<'static, io::Result<(BoxedIo, bool)>> {
        let (credentials, target) = (self.clone(), target.clone());
        Box::pin(async move {
            let connected = mesh_meshtls::connect(io, &credentials, &target, header).await;
            let connected = connected.map_err(io::Error::other)?;
            Ok((BoxedIo::new(connected.io), connected.alpn_transport))
        })
    }
}

/// Connects to endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Inner>);

struct Inner {
    options: ConnectOptions,
    secure: Arc<dyn Secure>,
    metrics: Metrics,
    own: BTreeSet<IpAddr>,
}

impl Connector {
    pub(crate) fn new(
        options: ConnectOptions,
        secure: Arc<dyn Secure>,
        metrics: Metrics,
        own: BTreeSet<IpAddr>,
    ) -> Self {
        Self(Arc::new(Inner { options, secure, metrics, own }))
    }

    /// A connection that carries `protocol`, or bytes.
    pub(crate) async fn open(
        &self,
        endpoint: &Endpoint,
        protocol: Option<SessionProtocol>,
    ) -> Result<BoxedIo, ConnectFailure> {
        let limit = self.0.options.timeout;
        match tokio::time::timeout(limit, self.open_now(endpoint, protocol)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectFailure::Timeout(limit)),
        }
    }

    async fn open_now(
        &self,
        endpoint: &Endpoint,
        protocol: Option<SessionProtocol>,
    ) -> Result<BoxedIo, ConnectFailure> {
        let metadata = &*endpoint.metadata;
        let direct = metadata.tls.as_ref().and(metadata.opaque_transport);
        let port = direct.map_or(endpoint.addr.port(), NonZeroU16::get);
        let addr = SocketAddr::new(endpoint.addr.ip(), port);
        let tcp = connect_remote(addr, &self.0.options).await.map_err(failure)?;
        let tcp = metrics::track_dst(&self.0.metrics, tcp, endpoint, self.is_own(addr.ip()));
        let Some(tls) = &metadata.tls else { return Ok(BoxedIo::new(tcp)) };
        // A gateway has to be told the name, though discovery speaks of no port of its proxy.
        let announce = direct.is_some() || metadata.authority_override.is_some();
        let secured = self.0.secure.secure(BoxedIo::new(tcp), tls, announce).await;
        let (mut io, takes_header) = secured?;
        if takes_header && announce {
            let header = header(endpoint, protocol)?;
            io.write_all(&mesh_wire::transport_header::encode(&header)).await?;
            io.flush().await?;
        }
        Ok(io)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.0.own.contains(&ip)
    }

    /// Endpoints of this Pod are the application itself: no TLS, no upgrade, no other port.
    pub(crate) fn localized(&self, endpoint: &Endpoint) -> Endpoint {
        let metadata = match self.is_own(endpoint.addr.ip()) {
            true => local(&endpoint.metadata),
            false => endpoint.metadata.clone(),
        };
        Endpoint { addr: endpoint.addr, metadata }
    }

    /// As [`Self::localized`], for a set.
    pub(crate) fn localized_set(&self, mut set: EndpointSet) -> EndpointSet {
        if let EndpointSet::Known(endpoints) = &mut set {
            for (addr, metadata) in endpoints.iter_mut().filter(|(a, _)| self.is_own(a.ip())) {
                tracing::trace!(%addr, "an endpoint of this Pod");
                *metadata = local(metadata);
            }
        }
        set
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        endpoint: &Endpoint,
        protocol: SessionProtocol,
    ) -> BoxFuture<'static, Result<BoxedIo, ConnectFailure>> {
        let (connector, endpoint) = (self.clone(), endpoint.clone());
        Box::pin(async move { connector.open(&endpoint, Some(protocol)).await })
    }
}

fn local(metadata: &EndpointMetadata) -> Arc<EndpointMetadata> {
    let plain = EndpointMetadata {
        tls: None,
        hint: ProtocolHint::Unknown,
        opaque_transport: None,
        authority_override: None,
        ..metadata.clone()
    };
    Arc::new(plain)
}

/// The endpoint's own port; behind a gateway the name and port of the Service. HTTP is announced unless
/// the endpoint is known as opaque.
fn header(
    endpoint: &Endpoint,
    protocol: Option<SessionProtocol>,
) -> Result<TransportHeader, ConnectFailure> {
    let metadata = &endpoint.metadata;
    let protocol = protocol.filter(|_| metadata.hint != ProtocolHint::Opaque);
    if let Some(target) = &metadata.authority_override {
        return Ok(TransportHeader {
            port: target.port,
            name: Some(target.name.clone()),
            protocol,
        });
    }
    let port = NonZeroU16::new(endpoint.addr.port())
        .ok_or_else(|| ConnectFailure::Refused("an endpoint's port is 0".into()))?;
    Ok(TransportHeader { port, name: None, protocol })
}

fn failure(error: ConnectError) -> ConnectFailure {
    match error {
        ConnectError::Timeout(limit) => ConnectFailure::Timeout(limit),
        ConnectError::Io(error) => ConnectFailure::Io(error),
        ConnectError::Loopback(_) => ConnectFailure::Refused(error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // proves: OUT-6
    #[test]
    fn the_header_names_the_port_or_the_service_behind_a_gateway() {
        let endpoint = |metadata| Endpoint {
            addr: "10.0.0.1:8080".parse().unwrap(),
            metadata: Arc::new(metadata),
        };
        let http = Some(SessionProtocol::Http2);
        let plain = header(&endpoint(EndpointMetadata::default()), http).unwrap();
        assert_eq!((plain.port.get(), plain.name, plain.protocol), (8080, None, http));
        let behind = EndpointMetadata {
            authority_override: Some("web.shop.svc.cluster.local:81".parse().unwrap()),
            hint: ProtocolHint::Opaque,
            ..EndpointMetadata::default()
        };
        let gateway = header(&endpoint(behind), http).unwrap();
        assert_eq!(gateway.port.get(), 81);
        assert_eq!(gateway.name.unwrap().as_str(), "web.shop.svc.cluster.local");
        assert_eq!(gateway.protocol, None);
    }
}
