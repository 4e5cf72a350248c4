//! # The outbound stack, top-down
//!
//! accept -> where did it want to go -> what is known of that place -> which protocol -> route -> balance ->
//! endpoint -> connect.
//!
//! Job: the first four steps; the others are one call each (`http`, `tcp`).
//! May touch: accepted connections. Must not touch: endpoints. Callers: the proxy's wiring; the gateway
//! enters below accept, by name.

use crate::{
    config::Config,
    connect::{Connector, Secure},
    discover::Discover,
    error::{DiscoverError, TcpError},
    explicit::Explicit,
    http::HttpService,
    ingress::Ingress,
    metrics,
    plan::Protocol,
    target::{Parts, Target},
};
use futures::{FutureExt, future};
use mesh_discover::Unanswered;
use mesh_http::detect::{Detected, HttpVersion, detect};
use mesh_model::authority::Authority;
use mesh_net::{
    listen::{Accepted, Listener},
    orig_dst,
};
use mesh_observe::Metrics;
use mesh_process::{drain, tasks};
use mesh_stack::{
    cache::{Cache, Handle},
    io::Io,
    queue::Queue,
};
use parking_lot::Mutex;
use std::{
    borrow::Borrow,
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak},
};
use tokio::time::Instant;

/// The outbound half. Clones share everything; a worker has one of its own, with its own connections.
#[derive(Clone)]
pub struct Outbound(Arc<Shared>);

struct Shared {
    parts: Arc<Parts>,
    targets: Cache<Authority, Target>,
    /// Questions under way: however many ask, discovery is asked once at a time.
    lookups: Arc<Mutex<HashMap<Authority, LookUp>>>,
    in_flight: Queue,
}

/// A question under way. Leaves the table when it ends, however it does.
struct Asked {
    authority: Authority,
    lookups: Weak<Mutex<HashMap<Authority, LookUp>>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Dropped with the table itself, or with what the table has let go.
        let lookups = self.lookups.upgrade();
        let removed = lookups.and_then(|lookups| lookups.lock().remove(&self.authority));
        drop(removed);
    }
}

type LookUp = future::Shared<future::BoxFuture<'static, Result<Handle<Target>, DiscoverError>>>;

/// How connections come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Redirected by the kernel, which knows where they wanted to go.
    Transparent,
    /// Sent here by clients that use this proxy knowingly, from the host or from this Pod.
    Explicit,
    /// As [`Entry::Transparent`], of an ingress that names the target of each request in a header.
    Ingress,
}

impl Outbound {
    /// An outbound half for the runtime that uses it.
    pub fn new(
        config: Config,
        discover: Arc<dyn Discover>,
        secure: Arc<dyn Secure>,
        metrics: Metrics,
    ) -> Self {
        let own = config.inbound_ips.clone();
        let connector = Connector::new(config.connect, secure, metrics.clone(), own);
        let targets = Cache::new(config.discovery_idle);
        let in_flight = Queue::new(config.max_in_flight);
        let parts = Arc::new(Parts { config, discover, connector, metrics });
        Self(Arc::new(Shared { parts, targets, lookups: Arc::default(), in_flight }))
    }

    /// Accepts until the drain starts; each connection then finishes in its own time.
    pub async fn run(self, listener: impl Borrow<Listener>, entry: Entry, drain: drain::Watch) {
        let mut signaled = std::pin::pin!(drain.clone().signaled());
        loop {
            let accepted = tokio::select! {
                _ = &mut signaled => return,
                accepted = listener.borrow().accept() => accepted,
            };
            let (outbound, drain) = (self.clone(), drain.clone());
            tasks::spawn("outbound connection", async move {
                let (client, mut to) = (accepted.peer, accepted.local);
                if let Err(error) = outbound.connection(accepted, entry, drain, &mut to).await {
                    outbound.parts().metrics.errors.outbound_tcp(error.kind(), to);
                    tracing::info!(%client, target = %to, %error, "connection closed");
                }
            });
        }
    }

    /// `wanted` is set to where the client wanted to go, as far as that is known.
    async fn connection(
        &self,
        accepted: Accepted,
        entry: Entry,
        drain: drain::Watch,
        wanted: &mut SocketAddr,
    ) -> Result<(), TcpError> {
        if entry == Entry::Explicit {
            return Explicit::new(self.clone()).serve(accepted, drain).await;
        }
        let to = orig_dst::of(&accepted, orig_dst::Source::Redirect)?.0;
        if to == accepted.local {
            return Err(TcpError::Refused("the connection was not redirected"));
        }
        *wanted = to;
        let io = metrics::track_src(&self.parts().metrics, accepted.io, to);
        if entry == Entry::Ingress {
            return self.ingress(io, to, drain).await;
        }
        let target = self.target(&Authority::Socket(to)).await?;
        self.proxy(target, io, drain).await
    }

    /// Carries a connection of an ingress that wanted to go to `original`.
    ///
    /// # Errors
    /// When the connection breaks or its bytes cannot be carried on.
    pub async fn ingress(
        &self,
        io: impl Io,
        original: SocketAddr,
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        Ingress::new(self.clone(), original).serve(io, drain).await
    }

    /// What discovery says of a destination. Asked once while anybody uses it; what is no more is asked
    /// again, and a refusal is never kept: it is told to those who were waiting for it.
    ///
    /// # Errors
    /// When there is no such destination, it is not for us, or nobody answers.
    pub async fn target(&self, authority: &Authority) -> Result<Handle<Target>, DiscoverError> {
        let targets = &self.0.targets;
        if let Some(found) = targets.get(authority) {
            if found.gone().is_none() {
                return Ok(found);
            }
            targets.invalidate_handle(authority, &found);
        }
        let look_up = || self.look_up(authority.clone());
        let lookup = self.0.lookups.lock().entry(authority.clone()).or_insert_with(look_up).clone();
        lookup.await
    }

    fn look_up(&self, authority: Authority) -> LookUp {
        let (parts, targets) = (self.0.parts.clone(), self.0.targets.clone());
        let panicked = Unanswered(parts.config.discovery_timeout);
        let asked = Asked { authority, lookups: Arc::downgrade(&self.0.lookups) };
        // A task of its own: it ends also when all who asked have left.
        let look_up = tasks::spawn("look-up", async move {
            let build = || Target::discover(&asked.authority, parts);
            targets.get_or_build(&asked.authority, build).await
        });
        look_up.map(move |found| found.unwrap_or(Err(panicked.into()))).boxed().shared()
    }

    /// Carries a connection to a target: decides what it speaks and serves that.
    ///
    /// # Errors
    /// When the connection breaks or its bytes cannot be carried on.
    pub async fn proxy(
        &self,
        target: Handle<Target>,
        io: impl Io,
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        // An update that changes the protocol holds for the connections after this one.
        let protocol = {
            let active = target.active();
            active.accepted.incr();
            active.protocol
        };
        let version = match protocol {
            Protocol::Opaque => return self.tcp(&target, io).await,
            Protocol::Tls => return self.tls(&target, io).await,
            Protocol::Http1 => HttpVersion::Http1,
            Protocol::Http2 | Protocol::Grpc => HttpVersion::Http2,
            Protocol::Detect => return self.decide(target, io, drain).await,
        };
        self.serve(target, io, version, drain).await
    }

    /// The service that sends requests to a target.
    pub fn http(&self, target: Handle<Target>) -> HttpService {
        HttpService::new(self.clone(), target)
    }

    pub(crate) async fn serve(
        &self,
        target: Handle<Target>,
        io: impl Io,
        version: HttpVersion,
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        let service = self.http(target);
        let params = &self.parts().config.server;
        // The clone keeps the drain waiting until this connection has ended.
        let _held = drain.clone();
        let draining = async { drop(drain.signaled().await) };
        Ok(mesh_http::serve(io, version, params, service, draining).await?)
    }

    pub(crate) async fn sniff<I: Io>(
        &self,
        io: I,
    ) -> std::io::Result<(Detected, mesh_stack::io::Prefixed<I>)> {
        let start = Instant::now();
        let result = detect(io, self.parts().config.detect_timeout).await;
        metrics::detected(&self.parts().metrics, &result, start.elapsed());
        result
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(crate) fn in_flight(&self) -> &Queue {
        &self.0.in_flight
    }

    /// Whether an address may use this proxy knowingly: the host (127.0.0.1, ::1) and this Pod.
    pub(crate) fn is_at_home(&self, peer: SocketAddr) -> bool {
        mesh_net::connect::is_own_loopback(peer.ip())
            || self.parts().config.inbound_ips.contains(&peer.ip())
    }
}
