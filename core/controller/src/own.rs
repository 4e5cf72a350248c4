//! # The process's own certificate
//!
//! Job: get and renew the leaf that the gRPC ports speak mesh TLS with, from the identity service.
//! May touch: the variables that a sidecar would have, the token file, the identity service.
//! Must not touch: Kubernetes. Callers: `destination`.

use anyhow::Context;
use futures::{FutureExt, future::BoxFuture};
use mesh_discover::{channel::Dial, identity::CertifyClient};
use mesh_meshtls::{
    Credentials, Params, TlsTarget,
    certifier::{self, Clock, Renewal, Token},
};
use mesh_model::{
    authority::Authority,
    identity::{DnsName, Identity},
};
use mesh_net::{
    Liveness,
    connect::{ConnectOptions, connect},
    dns::{Resolver, TtlBounds},
};
use mesh_pki::{Key, TrustBundle};
use mesh_process::{
    context::PodContext,
    settings::{self, Form, Reader, Setting, form},
};
use mesh_stack::io::BoxedIo;
use std::{io, path::PathBuf, sync::Arc, time::Duration};

const LOCAL_NAME: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "own identity; unset: no mesh TLS")
        .empty_is_unset();
const ANCHORS: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "trust anchors, PEM");
const TOKEN_FILE: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "token for the identity service")
        .default("/var/run/secrets/tokens/linkerd-identity-token");
const SVC_ADDR: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "host:port of the identity service");
const SVC_NAME: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_SVC_NAME", "identity of the identity service");
/// The variables of a control-plane process.
const TABLE: &[Setting] = &[LOCAL_NAME, ANCHORS, TOKEN_FILE, SVC_ADDR, SVC_NAME];
const ANCHORS_FORM: Form<TrustBundle> =
    Form::new("certificates in PEM", |text| TrustBundle::from_pem(text.as_bytes()).ok());

/// Who the process is and who certifies it.
pub(crate) struct Own {
    local: DnsName,
    anchors: TrustBundle,
    token: PathBuf,
    addr: Authority,
    server: DnsName,
}

impl Own {
    /// From the environment; `None` where no identity is configured.
    ///
    /// # Errors
    /// Names every bad variable.
    pub(crate) fn from_env() -> anyhow::Result<Option<Self>> {
        let tables = [TABLE];
        let mut reader = Reader::from_lookup(&tables, settings::env);
        let Ok(Some(local)) = reader.optional(&LOCAL_NAME, form::DNS_NAME) else {
            reader.finish()?;
            return Ok(None);
        };
        let anchors = reader.value(&ANCHORS, ANCHORS_FORM);
        let token = reader.value(&TOKEN_FILE, form::PATH);
        let addr = reader.value(&SVC_ADDR, form::CONTROL_ADDR);
        let server = reader.value(&SVC_NAME, form::DNS_NAME);
        reader.finish()?;
        let own = || -> Result<Self, settings::Reported> {
            Ok(Self { local, anchors: anchors?, token: token?, addr: addr?, server: server? })
        };
        Ok(Some(own().map_err(settings::BadSettings::from)?))
    }

    /// Starts to get certificates. Must be called within a runtime.
    ///
    /// # Errors
    /// When no key can be made or DNS is not configured.
    pub(crate) fn certify(self, pod: &PodContext) -> anyhow::Result<Credentials> {
        let params = Params {
            local: Identity::Dns(self.local.clone()),
            server_name: self.local,
            anchors: self.anchors,
            key: Key::generate()?,
            csr: None,
        };
        let credentials = Credentials::new(params)?;
        let dial = Arc::new(Service {
            target: TlsTarget { id: Identity::Dns(self.server.clone()), server_name: self.server },
            resolver: Resolver::new(pod, TtlBounds::default()).context("DNS")?,
            options: ConnectOptions {
                source: pod.source(),
                timeout: CONNECT,
                liveness: Liveness::default(),
            },
            credentials: credentials.clone(),
            addr: self.addr,
        });
        let client = CertifyClient::new(&dial.addr.to_string(), dial);
        let token = Token::File(pod.path(&self.token));
        let renewal = Renewal::default();
        let task = certifier::run(credentials.clone(), client, token, renewal, Clock::system(), ());
        tokio::spawn(task);
        Ok(credentials)
    }
}

/// The way to the identity service.
#[derive(Clone)]
struct Service {
    addr: Authority,
    target: TlsTarget,
    resolver: Resolver,
    options: ConnectOptions,
    credentials: Credentials,
}

impl Service {
    async fn open(self: Arc<Self>) -> io::Result<BoxedIo> {
        let addrs = match &self.addr {
            Authority::Socket(addr) => vec![*addr],
            Authority::Name(name) => {
                let found = self.resolver.resolve(&name.name, name.port.get()).await;
                found.map_err(io::Error::other)?.addrs
            }
        };
        let mut failure = io::Error::other(format!("{} has no address", self.addr));
        for addr in addrs {
            let stream = match connect(addr, &self.options).await {
                Ok(stream) => stream,
                Err(error) => {
                    failure = io::Error::other(format!("{addr}: {error}"));
                    continue;
                }
            };
            let secured = mesh_meshtls::connect(stream, &self.credentials, &self.target, false);
            return Ok(BoxedIo::new(secured.await.map_err(io::Error::other)?.io));
        }
        Err(failure)
    }
}

impl Dial for Service {
    fn dial(&self) -> BoxFuture<'static, io::Result<BoxedIo>> {
        Arc::new(self.clone()).open().boxed()
    }
}

const CONNECT: Duration = Duration::from_secs(1);
