//! # Connections to the control plane
//!
//! Job: resolve a service, connect to one of its addresses, secure it to the name that the service must
//! prove; count what the clients do.
//! May touch: DNS, sockets through `net`, TLS. Must not touch: what is asked. Callers: `start`.

use crate::settings::Service;
use futures::{FutureExt, future::BoxFuture};
use mesh_discover::channel::{CONNECT_TIMEOUT, Dial, ObserveCalls, Watchers};
use mesh_http::{Body, observe::ObserveResponse, respond::status_of};
use mesh_meshtls::Credentials;
use mesh_model::{authority::Authority, endpoint::TlsTarget, identity::Identity};
use mesh_net::{
    connect::{ConnectOptions, connect},
    dns::{DnsError, RecordKind, Resolution, Resolver},
};
use mesh_observe::{
    ControlClient, ControlMetrics, DnsRecords, DnsResult, Exchange, HttpSeries, NoTls, RequestKind,
    StreamError, Tls,
};
use mesh_stack::io::BoxedIo;
use rand::seq::SliceRandom;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Reaches one service.
#[derive(Clone)]
pub(crate) struct ServiceDial(Arc<Inner>);

struct Inner {
    addr: Authority,
    tls: Option<TlsTarget>,
    resolver: Resolver,
    options: ConnectOptions,
    credentials: Credentials,
    caller: Caller,
    counted: Counted,
}

/// What is counted of a client of the control plane.
#[derive(Clone)]
pub(crate) struct Counted {
    pub(crate) client: ControlClient,
    pub(crate) metrics: ControlMetrics,
}

/// Who calls a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Whoever we are so far: only the identity service takes that.
    Anyone,
    /// A certified workload: until there is a certificate, no connection is tried, and then at once.
    Certified,
}

impl ServiceDial {
    /// Plaintext if the service has no name, which the settings allow on loopback only.
    pub(crate) fn new(
        service: &Service,
        caller: Caller,
        resolver: Resolver,
        options: ConnectOptions,
        credentials: Credentials,
        counted: Counted,
    ) -> Self {
        let tls = service.name.as_ref().and_then(|id| match id {
            Identity::Dns(name) => Some(TlsTarget { id: id.clone(), server_name: name.clone() }),
            Identity::Uri(_) => None,
        });
        let addr = service.addr.clone();
        Self(Arc::new(Inner { addr, tls, resolver, options, credentials, caller, counted }))
    }
}

impl Dial for ServiceDial {
    fn dial(&self) -> BoxFuture<'static, io::Result<BoxedIo>> {
        let inner = self.0.clone();
        async move { inner.dial().await }.boxed()
    }
}

impl Inner {
    async fn dial(&self) -> io::Result<BoxedIo> {
        if self.caller == Caller::Certified && self.tls.is_some() {
            self.credentials.ready().await;
        }
        let mut addrs = self.resolve().await?;
        addrs.shuffle(&mut rand::rng());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the service has no address");
        for addr in addrs {
            match self.reach(addr).await {
                Ok(io) => return Ok(io),
                Err(error) => {
                    tracing::debug!(%addr, %error, "Control-plane address not reached");
                    last = io::Error::new(error.kind(), format!("{addr}: {error}"));
                }
            }
        }
        Err(last)
    }

    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.addr {
            Authority::Socket(addr) => Ok(vec![*addr]),
            Authority::Name(name) if name.name.as_str() == "localhost" => {
                Ok(vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), name.port.get())])
            }
            Authority::Name(name) => {
                let found = self.resolver.resolve(&name.name, name.port.get()).await;
                self.counted.resolved(&found);
                Ok(found.map_err(io::Error::other)?.addrs)
            }
        }
    }

    async fn reach(&self, addr: SocketAddr) -> io::Result<BoxedIo> {
        let io = connect(addr, &self.options).await.map_err(io::Error::other)?;
        match &self.tls {
            None => Ok(BoxedIo::new(io)),
            Some(target) => {
                let tls = mesh_meshtls::connect(io, &self.credentials, target, false).await;
                Ok(BoxedIo::new(tls.map_err(io::Error::other)?.io))
            }
        }
    }
}

impl Counted {
    /// Services are asked for first: an answer from addresses means that there were none.
    fn resolved(&self, found: &Result<Resolution, DnsError>) {
        use DnsRecords::{Ip, Srv};
        let count = |records, result| self.metrics.resolved(self.client, records, result);
        match found {
            Ok(Resolution { record: RecordKind::Srv, .. }) => count(Srv, DnsResult::Ok),
            Ok(Resolution { record: RecordKind::Ip, .. }) => {
                count(Srv, DnsResult::NotFound);
                count(Ip, DnsResult::Ok);
            }
            Err(DnsError::NotFound { .. }) => {
                count(Srv, DnsResult::NotFound);
                count(Ip, DnsResult::NotFound);
            }
            Err(DnsError::Config(_) | DnsError::Failed { .. }) => count(Ip, DnsResult::Error),
        }
    }

    /// Who is told of the calls to a service.
    pub(crate) fn watchers(&self, service: &Service) -> Watchers {
        let addr = service.addr.to_string();
        let tls = service.name.clone().map_or(Tls::None(NoTls::Loopback), Tls::Server);
        let meter = self.metrics.meter(self.client, &addr, CONNECT_TIMEOUT);
        Watchers { calls: Arc::new(Calls(self.metrics.calls(&addr, &tls))), meter: Arc::new(meter) }
    }
}

/// Counts calls; all are gRPC.
struct Calls(HttpSeries);

struct Call(Exchange);

impl ObserveCalls for Calls {
    fn call(&self) -> Option<Box<dyn ObserveResponse>> {
        Some(Box::new(Call(self.0.begin_kind(RequestKind::Grpc))))
    }
}

impl ObserveResponse for Call {
    fn respond(self: Box<Self>, response: http::Response<Body>) -> http::Response<Body> {
        self.0.respond(response)
    }

    fn failed(self: Box<Self>, error: &mesh_http::Error) {
        self.0.fail(status_of(error), StreamError::of(error));
    }
}
