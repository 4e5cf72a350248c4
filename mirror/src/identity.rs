//! # Our own identity
//!
//! Job: get and renew this process's certificate, and open mesh TLS connections to gateways with it.
//! May touch: the identity service, gateways' admin ports, the token file. Must not touch: Kubernetes.
//! Callers: `lib.rs`; the probe dials through it.

use crate::{args::IdentityConfig, error::Error};
use futures::{FutureExt, future::BoxFuture};
use mesh_discover::{channel, identity::CertifyClient};
use mesh_link::probe::{
    Failure,
    dial::{Dial, Stream},
};
use mesh_meshtls::{
    Credentials, Params, TlsError, TlsTarget,
    certifier::{self, Clock, Renewal, Token},
    connect,
};
use mesh_model::{
    authority::Authority,
    identity::{DnsName, Identity},
};
use mesh_net::{
    connect::{ConnectOptions, connect as connect_tcp},
    dns::{Resolver, TtlBounds},
};
use mesh_pki::{Key, TrustBundle};
use mesh_process::context::PodContext;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

/// Longest TCP handshake. Probe attempts are bounded by a second as a whole.
const CONNECT: Duration = Duration::from_secs(1);

/// The dialler of probes. Starts to get a certificate in the background.
pub(crate) fn dial(
    context: &PodContext,
    config: Option<&IdentityConfig>,
) -> Result<Arc<dyn Dial>, Error> {
    let Some(config) = config else {
        tracing::warn!("no identity is configured: gateways cannot be probed and count as alive");
        return Ok(Arc::new(Anonymous));
    };
    let bad = |what: &str, error: &dyn std::fmt::Display| Error::Start(format!("{what}: {error}"));
    let anchors = TrustBundle::from_pem(config.anchors.as_bytes())
        .map_err(|e| bad("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", &e))?;
    let key = Key::generate().map_err(|e| bad("no key can be made", &e))?;
    let params = Params {
        local: Identity::Dns(config.local.clone()),
        server_name: config.local.clone(),
        anchors,
        key,
        csr: None,
    };
    let credentials =
        Credentials::new(params).map_err(|e| bad("no certificate request can be made", &e))?;
    let resolver = Resolver::new(context, TtlBounds::default()).map_err(|e| bad("DNS", &e))?;
    let options = options(context);
    let service = Service {
        addr: config.service.clone(),
        target: target(&Identity::Dns(config.service_name.clone())),
        resolver,
        credentials: credentials.clone(),
        options,
    };
    let certify = CertifyClient::new(&config.service.to_string(), Arc::new(service));
    let token = Token::File(context.path(&config.token_file));
    tokio::spawn(certifier::run(
        credentials.clone(),
        certify,
        token,
        Renewal::default(),
        Clock::system(),
        (),
    ));
    Ok(Arc::new(Gateways { credentials, options }))
}

fn options(context: &PodContext) -> ConnectOptions {
    ConnectOptions {
        source: context.source(),
        timeout: CONNECT,
        liveness: mesh_net::listen::Liveness::default(),
    }
}

fn target(id: &Identity) -> TlsTarget {
    let server_name = match id {
        Identity::Dns(name) => name.clone(),
        // No such identity serves a gateway; the handshake will tell.
        Identity::Uri(_) => unnamed(),
    };
    TlsTarget { id: id.clone(), server_name }
}

fn unnamed() -> DnsName {
    "unnamed".parse().expect("a plain label is a DNS name")
}

/// Gateways' admin ports.
struct Gateways {
    credentials: Credentials,
    options: ConnectOptions,
}

impl Dial for Gateways {
    fn dial(
        &self,
        addr: SocketAddr,
        identity: &Identity,
    ) -> BoxFuture<'static, Result<Stream, Failure>> {
        let (credentials, options, target) =
            (self.credentials.clone(), self.options, target(identity));
        async move {
            if !credentials.is_ready() {
                return Err(Failure::Own(
                    "the identity service has not certified us so far".into(),
                ));
            }
            let tcp = connect_tcp(addr, &options)
                .await
                .map_err(|e| Failure::Tcp(format!("{addr}: {e}")))?;
            let connected = connect(tcp, &credentials, &target, false)
                .await
                .map_err(|error| failure(addr, &error))?;
            Ok(Box::new(connected.io) as Stream)
        }
        .boxed()
    }
}

/// Whether the peer is nobody of ours or cannot speak at all.
fn failure(addr: SocketAddr, error: &TlsError) -> Failure {
    let text = format!("{addr}: {error}");
    match error {
        TlsError::NotCertified => Failure::Own(error.to_string()),
        TlsError::WrongIdentity { .. } => Failure::Identity(text),
        TlsError::Handshake(rustls::Error::InvalidCertificate(_)) => {
            Failure::Identity(format!("{text}; do both clusters share their trust anchors?"))
        }
        _ => Failure::Tls(text),
    }
}

/// Stands in when no identity is configured.
struct Anonymous;

impl Dial for Anonymous {
    fn dial(&self, _: SocketAddr, _: &Identity) -> BoxFuture<'static, Result<Stream, Failure>> {
        async { Err(Failure::Own("no identity is configured".into())) }.boxed()
    }
}

/// The identity service.
#[derive(Clone)]
struct Service {
    addr: Authority,
    target: TlsTarget,
    resolver: Resolver,
    credentials: Credentials,
    options: ConnectOptions,
}

impl channel::Dial for Service {
    fn dial(&self) -> BoxFuture<'static, io::Result<mesh_net::io::BoxedIo>> {
        let service = self.clone();
        async move {
            let addrs = match &service.addr {
                Authority::Socket(addr) => vec![*addr],
                Authority::Name(name) => {
                    let found = service.resolver.resolve(&name.name, name.port.get()).await;
                    found.map_err(io::Error::other)?.addrs
                }
            };
            let mut last = io::Error::other(format!("{} has no address", service.addr));
            for addr in addrs {
                match connect_tcp(addr, &service.options).await {
                    Ok(tcp) => {
                        let connected =
                            connect(tcp, &service.credentials, &service.target, false).await;
                        return Ok(mesh_net::io::BoxedIo::new(
                            connected.map_err(io::Error::other)?.io,
                        ));
                    }
                    Err(error) => last = io::Error::other(format!("{addr}: {error}")),
                }
            }
            Err(last)
        }
        .boxed()
    }
}
