//! # Mesh TLS
//!
//! Job: real certificates between outbound and a peer's proxy port. Must not touch: anything but loopback.

use crate::harness::*;
use http::{Request, Response};
use mesh_http::{Body, ServerParams, Service, detect::HttpVersion};
use mesh_meshtls::{AlpnMode, Credentials, Params};
use mesh_model::{
    endpoint::{EndpointMetadata, ProtocolHint, TlsTarget},
    transport::SessionProtocol,
};
use mesh_pki::{CaParams, Csr, Issuer, Key, LeafPolicy, TrustBundle, create_issuer, create_root};
use std::{
    net::SocketAddr,
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{io::AsyncReadExt, net::TcpListener};

const HOUR: Duration = Duration::from_secs(3600);
const CLIENT: &str = "client.demo.serviceaccount.identity.linkerd.cluster.local";
const SERVER: &str = "server.demo.serviceaccount.identity.linkerd.cluster.local";
const OTHER: &str = "other.demo.serviceaccount.identity.linkerd.cluster.local";
const NAME: &str = "web.shop.svc.cluster.local:80";

struct Ca {
    issuer: Issuer,
    anchors: TrustBundle,
}

impl Ca {
    fn new() -> Self {
        let from = SystemTime::now() - HOUR;
        let root = create_root(&CaParams::root("root", from, 1000 * HOUR)).unwrap();
        let made = create_issuer(&root, &CaParams::issuer("issuer", from, 1000 * HOUR)).unwrap();
        let (certificate, key) = (made.certificate.to_pem(), made.key.to_pem());
        Self {
            issuer: Issuer::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap(),
            anchors: TrustBundle::from_certificates([root.certificate]).unwrap(),
        }
    }

    fn workload(&self, name: &str) -> Credentials {
        let credentials = Credentials::new(Params {
            local: name.parse().unwrap(),
            server_name: name.parse().unwrap(),
            anchors: self.anchors.clone(),
            key: Key::generate().unwrap(),
            csr: None,
        })
        .unwrap();
        let now = SystemTime::now();
        let csr = Csr::from_der(&credentials.csr()).unwrap().check(credentials.local()).unwrap();
        let policy = LeafPolicy { lifetime: HOUR, clock_skew: Duration::ZERO };
        let issued = self.issuer.issue(&csr, policy, now).unwrap();
        let chain: Vec<Vec<u8>> = issued.intermediates.iter().map(|d| d.to_vec()).collect();
        credentials.install(&issued.leaf, &chain, now).unwrap();
        credentials
    }
}

/// A proxy port: mesh TLS, transport header, then HTTP/2; tells who called and what was announced.
async fn proxy_port(listener: TcpListener, credentials: Credentials) {
    loop {
        let (io, _) = listener.accept().await.unwrap();
        let credentials = credentials.clone();
        tokio::spawn(async move {
            let mode = AlpnMode::TransportHeader;
            let accepted = mesh_meshtls::accept(io, &credentials, mode).await?;
            assert!(accepted.alpn_transport);
            let mut io = accepted.io;
            let mut buffer = bytes::BytesMut::new();
            let header = loop {
                io.read_buf(&mut buffer).await.unwrap();
                if let Some(header) = mesh_wire::transport_header::decode(&mut buffer).unwrap() {
                    break header;
                }
            };
            assert_eq!(header.protocol, Some(SessionProtocol::Http2));
            let io = mesh_stack::io::Prefixed::new(buffer.freeze(), io);
            let said = format!("{} wants {}", accepted.client.unwrap(), header.port);
            let never = std::future::pending();
            let params = ServerParams::default();
            let _ = mesh_http::serve(io, HttpVersion::Http2, &params, Say(said), never).await;
            Ok::<_, mesh_meshtls::TlsError>(())
        });
    }
}

#[derive(Clone)]
struct Say(String);

impl Service for Say {
    async fn call(&self, _: Request<Body>) -> Result<Response<Body>, mesh_http::Error> {
        Ok(Response::new(Body::full(self.0.clone())))
    }
}

/// A rig with a Service whose one endpoint is expected to be `expected`, while [`SERVER`] listens there.
async fn rig(expected: &str) -> Rig {
    let ca = Ca::new();
    let (listener, addr) = bind().await;
    tokio::spawn(proxy_port(listener, ca.workload(SERVER)));
    let rig = Rig::secured(Arc::new(ca.workload(CLIENT)), |config| {
        config.balance.failfast = Duration::from_millis(300);
    });
    let metadata = EndpointMetadata {
        tls: Some(TlsTarget {
            id: expected.parse().unwrap(),
            server_name: SERVER.parse().unwrap(),
        }),
        hint: ProtocolHint::Http2,
        opaque_transport: NonZeroU16::new(addr.port()),
        ..EndpointMetadata::default()
    };
    rig.known.service(NAME, false, set(&[(SocketAddr::new(addr.ip(), 8080), metadata)]));
    rig
}

// proves: OUT-6 OUT-12
#[tokio::test]
async fn the_peer_sees_the_clients_identity_and_the_port() {
    let rig = rig(SERVER).await;
    let entrance = rig.entrance(NAME).await;
    let response =
        converse(entrance, "GET /some/path HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains(&format!("{CLIENT} wants 8080")), "{response}");
}

// proves: OUT-12
#[tokio::test]
async fn another_identity_is_a_failure_to_connect() {
    let rig = rig(OTHER).await;
    let entrance = rig.entrance(NAME).await;
    let response = converse(entrance, "GET /some/path HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 504 "), "{response}");
    assert!(response.contains("service in fail-fast"), "{response}");
    assert!(response.contains(OTHER), "the reason names the identity: {response}");
}
