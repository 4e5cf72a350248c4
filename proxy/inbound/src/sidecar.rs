//! # The inbound path
//!
//! Job: what happens to a connection, from accept to application. Read top-down:
//!
//! 1. original destination; it must be this Pod's (`accept`)
//! 2. the proxy's own port: a transport header says what follows (`direct.rs`)
//! 3. policy of the port (`policy.rs`), TLS by the first bytes (`tls.rs`)
//! 4. what the port speaks, by policy or by sniffing (`decide`)
//! 5. requests (`http.rs`) or bytes (`tcp.rs`), each after its authorisation
//!
//! May touch: accepted connections. Must not touch: how each step does its work. Callers: the wiring.

use crate::{
    config::Config,
    connection::{Connection, OtherTls},
    direct,
    error::Error,
    gateway::Gateway,
    http::{self, Apps, ToApp},
    policy::Policies,
    profiles::Names,
    tcp,
    tls::{self, FirstBytes},
};
use ::http::uri;
use mesh_http::detect::{Detected, HttpVersion};
use mesh_meshtls::{AlpnMode, Credentials};
use mesh_model::inbound::{ClientTls, ServerProtocol};
use mesh_net::{
    listen::{Accepted, Listener},
    orig_dst,
};
use mesh_observe::{
    DetectResult, Direction, InboundErrorLabels, Metrics, NoTls, TransportLabels, TransportPeer,
};
use mesh_process::{drain, tasks};
use mesh_stack::{
    io::{BoxedIo, Io},
    queue::Queue,
};
use std::{borrow::Borrow, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// One worker's inbound half; `G` is what takes named connections, if anything.
#[derive(Clone)]
pub struct Inbound<G: Gateway> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) gateway: Option<G>,
}

/// What all connections of a worker share.
pub struct Shared {
    pub(crate) config: Config,
    pub(crate) policies: Policies,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Metrics,
    pub(crate) apps: Apps,
    pub(crate) in_flight: Queue,
}

impl<G: Gateway> Inbound<G> {
    /// A worker's inbound half. To be made, and run, on the worker's runtime.
    pub fn new(
        config: Config,
        policies: Policies,
        credentials: Credentials,
        metrics: Metrics,
        gateway: Option<G>,
    ) -> Self {
        let apps = Apps::new(&config, metrics.clone());
        let in_flight = Queue::new(config.max_in_flight);
        let shared = Shared { config, policies, credentials, metrics, apps, in_flight };
        Self { shared: Arc::new(shared), gateway }
    }

    /// Accepts until the drain starts. Connections then go on; each holds the drain until it ends.
    pub async fn run(self, listener: impl Borrow<Listener>, drain: drain::Watch) {
        let stop = drain.clone().signaled();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                _ = &mut stop => return,
                accepted = listener.borrow().accept() => accepted,
            };
            tasks::spawn("inbound connection", self.clone().serve(accepted, drain.clone()));
        }
    }

    /// Serves one connection; counts and logs how it failed.
    pub async fn serve(self, accepted: Accepted, drain: drain::Watch) {
        let (client, local) = (accepted.peer, accepted.local);
        let target = orig_dst::of(&accepted, self.shared.config.orig_dst);
        let at = target.as_ref().map_or(local, |dst| dst.0);
        let errors = self.shared.metrics.errors.clone();
        let served = match target {
            Err(error) => Err(Error::OrigDst(error)),
            Ok(orig_dst::OrigDst(target)) => self.accept(accepted, target, drain).await,
        };
        if let Err(error) = served {
            if let Some(label) = error.label() {
                let labels = InboundErrorLabels { target: at, server: None };
                errors.inbound_tcp(label, labels);
            }
            if let Error::Direct(refusal) = &error {
                errors.direct_refused(refusal.reason());
            }
            tracing::info!(%client, target = %at, %error, "Connection ended");
        }
    }

    async fn accept(
        self,
        accepted: Accepted,
        target: SocketAddr,
        drain: drain::Watch,
    ) -> Result<(), Error> {
        let config = &self.shared.config;
        if !config.ips.is_empty() && !config.ips.contains(&target.ip()) {
            return Err(Error::Foreign(target));
        }
        if target.port() == config.port.get() {
            return direct::serve(self, accepted, target, drain).await;
        }
        let (connection, io) = match self.secure(accepted, target).await? {
            Some(secured) => secured,
            None => return Ok(()),
        };
        self.dispatch(connection, io, drain).await
    }

    /// Ends TLS that is ours, as far as the port's policy lets us look; `None` if the client left.
    pub(crate) async fn secure(
        &self,
        accepted: Accepted,
        target: SocketAddr,
    ) -> Result<Option<(Connection, BoxedIo)>, Error> {
        let shared = &self.shared;
        let policy = shared.policies.get(target.port()).await;
        let plain = |other| Connection {
            shared: shared.clone(),
            client: accepted.peer,
            target,
            tls: ClientTls::Plaintext,
            other,
            policy: policy.clone(),
        };
        if policy.now().protocol == ServerProtocol::Opaque {
            let connection = plain(OtherTls::None(NoTls::PortSkipped));
            return Ok(Some(tracked(connection, accepted.io)));
        }
        let deadline = Instant::now() + bounded(shared.config.detect_timeout);
        let own = &shared.config.server_name;
        let detected = tokio::time::timeout_at(deadline, tls::detect(accepted.io, own)).await;
        let (kind, io) = detected.map_err(|_| Error::TlsTimeout)??;
        let (connection, io) = match kind {
            FirstBytes::Nothing => return Ok(None),
            FirstBytes::Plain => tracked(plain(OtherTls::None(NoTls::NotFromRemote)), io),
            FirstBytes::Other(name) => tracked(plain(OtherTls::Application(name)), io),
            FirstBytes::Ours => {
                let accept = mesh_meshtls::accept(io, &shared.credentials, AlpnMode::None);
                let tls = tokio::time::timeout_at(deadline, accept).await;
                let tls = tls.map_err(|_| Error::TlsTimeout)?;
                let tls = tls.map_err(|e| Error::Handshake(e.to_string()))?;
                let mut connection = plain(OtherTls::None(NoTls::NotFromRemote));
                connection.tls = ClientTls::Mesh { client: tls.client };
                tracked(connection, tls.io)
            }
        };
        Ok(Some((connection, io)))
    }

    /// Hands a connection to the protocol that its port speaks.
    async fn dispatch(
        self,
        connection: Connection,
        io: BoxedIo,
        drain: drain::Watch,
    ) -> Result<(), Error> {
        let (version, io) = self.decide(&connection, io).await?;
        match version {
            Some(version) => self.requests(connection, version, io, drain).await,
            None => {
                let forwarded = tcp::forward(&connection, io).await;
                drop(drain);
                forwarded
            }
        }
    }

    /// The version of HTTP that follows; `None` is bytes.
    async fn decide(
        &self,
        connection: &Connection,
        io: BoxedIo,
    ) -> Result<(Option<HttpVersion>, BoxedIo), Error> {
        let meshed = matches!(connection.tls, ClientTls::Mesh { .. });
        let policy = connection.policy.now();
        let (timeout, when_silent) = match &policy.protocol {
            // The application's own TLS is passed through, whatever the port speaks.
            _ if matches!(connection.other, OtherTls::Application(_)) && !meshed => {
                return Ok((None, io));
            }
            ServerProtocol::Opaque | ServerProtocol::Tls => return Ok((None, io)),
            ServerProtocol::Http2(_) | ServerProtocol::Grpc(_) => {
                return Ok((Some(HttpVersion::Http2), io));
            }
            ServerProtocol::Http1(_) if !meshed => return Ok((Some(HttpVersion::Http1), io)),
            // A peer may carry HTTP/1 over HTTP/2.
            ServerProtocol::Http1(_) => {
                (self.shared.config.detect_timeout, Some(HttpVersion::Http1))
            }
            ServerProtocol::Detect { timeout, .. } => (*timeout, None),
        };
        let start = Instant::now();
        let sniffed = mesh_http::detect::detect(io, timeout).await;
        let result = match &sniffed {
            Ok((Detected::Http(HttpVersion::Http1), _)) => DetectResult::Http1,
            Ok((Detected::Http(HttpVersion::Http2), _)) => DetectResult::Http2,
            Ok((Detected::NotHttp, _)) => DetectResult::NotHttp,
            Ok((Detected::Timeout, _)) => DetectResult::ReadTimeout,
            Err(_) => DetectResult::Error,
        };
        self.shared.metrics.detect.detected(Direction::Inbound, result, start.elapsed());
        let (detected, io) = sniffed?;
        let version = match detected {
            Detected::Http(version) => Some(version),
            Detected::NotHttp => None,
            Detected::Timeout => when_silent,
        };
        Ok((version, BoxedIo::new(io)))
    }

    /// Serves HTTP toward the application.
    pub(crate) async fn requests(
        self,
        connection: Connection,
        version: HttpVersion,
        io: impl Io,
        drain: drain::Watch,
    ) -> Result<(), Error> {
        let app = self.shared.apps.get(connection.target).await;
        let authority = authority_of(connection.target);
        let next = ToApp((*app).clone(), self.shared.metrics.clone());
        let Config { profiles, authority_labels, .. } = &self.shared.config;
        let named = profiles.is_some() || *authority_labels;
        let names = named.then(|| Names::new(profiles.clone()));
        let served = http::serve(connection, names, next, authority, version, io, drain).await;
        // The client of the application is kept at least as long as the connection.
        drop(app);
        served
    }
}

/// Counts the connection and its bytes.
pub(crate) fn tracked(connection: Connection, io: impl Io) -> (Connection, BoxedIo) {
    let labels = TransportLabels {
        direction: Direction::Inbound,
        peer: TransportPeer::Src,
        target: connection.target,
        tls: connection.tls_label(),
        server: Some((connection.policy.now().meta.clone(), connection.target.port())),
        discovered: None,
    };
    let io = connection.shared.metrics.transport.series(&labels).track(io);
    (connection, BoxedIo::new(io))
}

/// A timeout may be set to a year and more, which must not overflow the clock.
pub(crate) fn bounded(timeout: Duration) -> Duration {
    timeout.min(Duration::from_secs(10 * 365 * 24 * 3600))
}

pub(crate) fn authority_of(target: SocketAddr) -> uri::Authority {
    // A socket address always is an authority.
    uri::Authority::try_from(target.to_string()).unwrap_or(uri::Authority::from_static("localhost"))
}
