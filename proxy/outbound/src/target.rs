//! # Targets
//!
//! Job: one destination as it is known now: its plan, and the routers that carry it out. Follows
//! discovery; backends that stay keep their connections.
//! May touch: discovery streams, balancers. Must not touch: accepted connections. Callers: `sidecar`,
//! `explicit`, the gateway.

use crate::{
    backend::Backend,
    config::{Config, Routing},
    connect::Connector,
    discover::Discover,
    error::DiscoverError,
    plan::{self, Plan, Protocol},
    profile::ProfileRoutes,
    routes::{Builder, LiveRoute, Router, Rule},
};
use arc_swap::ArcSwap;
use http::{HeaderValue, Version};
use mesh_discover::{Refusal, RefusalCode, State, settled};
use mesh_model::{
    authority::Authority,
    meta::Meta,
    outbound::{HttpPolicy, OutboundPolicy},
    profile::Profile,
};
use mesh_observe::{
    ConnectionKind, ConnectionProtocol, ConnectionRouteSeries, Counter, Metrics,
    OutboundRouteSeries, RequestKind,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What all targets of an outbound half share.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) discover: Arc<dyn Discover>,
    pub(crate) connector: Connector,
    pub(crate) metrics: Metrics,
}

/// A destination that discovery has told of.
pub struct Target {
    authority: Authority,
    now: Arc<ArcSwap<Active>>,
    /// The server was seen to speak first.
    speaks_first: AtomicBool,
    _follow: DropGuard,
}

/// A plan with its routers and backends.
pub(crate) struct Active {
    pub(crate) protocol: Protocol,
    /// For HTTP/1 and for HTTP/2; usually the same.
    http: [Arc<Router<OutboundRouteSeries>>; 2],
    pub(crate) connections: Router<ConnectionRouteSeries>,
    /// If the profile routes HTTP.
    pub(crate) profile: Option<ProfileRoutes>,
    /// Value of `l5d-dst-canonical`.
    pub(crate) canonical: Option<HeaderValue>,
    /// Connections by protocol.
    pub(crate) accepted: Counter,
    /// The control plane says that the destination is not there, or not for us, any more.
    gone: Option<DiscoverError>,
    /// The control plane knows of it: there is a profile or a policy.
    pub(crate) discovered: bool,
}

/// The two streams about a destination.
struct Sources {
    profile: watch::Receiver<State<Profile>>,
    policy: watch::Receiver<State<OutboundPolicy>>,
}

/// How long a gateway waits for a policy.
const POLICY_AT_GATEWAY: Duration = Duration::from_millis(500);

impl Target {
    /// Asks about a destination; both questions go out at once.
    pub(crate) async fn discover(
        authority: &Authority,
        parts: Arc<Parts>,
    ) -> Result<Self, DiscoverError> {
        let mut sources = Sources {
            profile: parts.discover.profile(authority),
            policy: parts.discover.policy(authority),
        };
        let limit = parts.config.discovery_timeout;
        settled(&mut sources.profile, limit).await?;
        // Without a profile there is nothing to wait for.
        let routing = parts.config.routing;
        if let Some(error) = gone(authority, &sources.profile.borrow(), &State::Pending, routing) {
            return Err(error);
        }
        match routing {
            Routing::Sidecar => {
                settled(&mut sources.policy, limit).await?;
            }
            // The profile says enough to serve; a policy that comes later counts from then on.
            Routing::Gateway => {
                let _ = settled(&mut sources.policy, limit.min(POLICY_AT_GATEWAY)).await;
            }
        }
        let active = sources.active(authority, &parts, None)?;
        let now = Arc::new(ArcSwap::from_pointee(active));
        let stop = CancellationToken::new();
        let follow = follow(authority.clone(), sources, parts, now.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(follow).await });
        let speaks_first = AtomicBool::new(false);
        Ok(Self { authority: authority.clone(), now, speaks_first, _follow: stop.drop_guard() })
    }

    /// What was asked about.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Why the destination is no more, if it is.
    pub fn gone(&self) -> Option<DiscoverError> {
        self.active().gone.clone()
    }

    /// Whether the server was seen to speak before its clients.
    pub(crate) fn speaks_first(&self) -> bool {
        self.speaks_first.load(Ordering::Relaxed)
    }

    pub(crate) fn set_speaks_first(&self, first: bool) {
        self.speaks_first.store(first, Ordering::Relaxed);
    }

    pub(crate) fn active(&self) -> arc_swap::Guard<Arc<Active>> {
        self.now.load()
    }

    /// What holds now, to be kept for as long as a request takes.
    pub(crate) fn active_arc(&self) -> Arc<Active> {
        self.now.load_full()
    }
}

impl Sources {
    /// The plan by what is known now, with the backends of `before` where they stay the same.
    fn active(
        &self,
        authority: &Authority,
        parts: &Arc<Parts>,
        before: Option<&Active>,
    ) -> Result<Active, DiscoverError> {
        let profile = self.profile.borrow();
        let policy = self.policy.borrow();
        let gone = gone(authority, &profile, &policy, parts.config.routing);
        let policy = match &*policy {
            State::Known(policy) => Some(policy),
            State::Pending => None,
            // A controller that does not know the destination, or not the call: see `plan`.
            State::Refused(refusal) => match refusal.code {
                RefusalCode::NotFound | RefusalCode::Unimplemented => None,
                _ if parts.config.routing == Routing::Gateway => None,
                _ => return Err(DiscoverError::Refused(refusal.clone())),
            },
        };
        let known = profile.known();
        let plan = plan::plan(authority, known, policy, parts.config.routing);
        let discovered = known.is_some() || policy.is_some();
        let active = Active::new(plan, known, gone, authority, parts, before);
        Ok(Active { discovered, ..active })
    }

    /// Waits for news; `false` when none will come.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            Ok(()) = self.profile.changed() => true,
            Ok(()) = self.policy.changed() => true,
            else => false,
        }
    }
}

async fn follow(
    authority: Authority,
    mut sources: Sources,
    parts: Arc<Parts>,
    now: Arc<ArcSwap<Active>>,
) {
    while sources.changed().await {
        let before = now.load_full();
        match sources.active(&authority, &parts, Some(&before)) {
            Ok(active) => now.store(Arc::new(active)),
            Err(error) => tracing::warn!(%authority, %error, "the last good routes keep serving"),
        }
    }
}

/// Whether a refusal means that the destination is no more. An address without a profile is just an
/// address; a name without one is not there, or not for us. To a gateway the policy's side may say it too,
/// earlier or later than the profile's.
fn gone(
    authority: &Authority,
    profile: &State<Profile>,
    policy: &State<OutboundPolicy>,
    routing: Routing,
) -> Option<DiscoverError> {
    match (authority, profile, policy, routing) {
        (Authority::Socket(_), ..) => None,
        (Authority::Name(_), State::Refused(refusal), ..) => Some(refused(refusal)),
        (Authority::Name(_), _, State::Refused(refusal), Routing::Gateway)
            if refusal.code == RefusalCode::FailedPrecondition =>
        {
            Some(refused(refusal))
        }
        (Authority::Name(_), ..) => None,
    }
}

fn refused(refusal: &Refusal) -> DiscoverError {
    match refusal.code {
        RefusalCode::NotFound => DiscoverError::Missing(refusal.clone()),
        RefusalCode::InvalidArgument
        | RefusalCode::FailedPrecondition
        | RefusalCode::Unimplemented => DiscoverError::Refused(refusal.clone()),
    }
}

impl Active {
    fn new(
        plan: Plan,
        profile: Option<&Profile>,
        gone: Option<DiscoverError>,
        authority: &Authority,
        parts: &Arc<Parts>,
        before: Option<&Self>,
    ) -> Self {
        let known = before.into_iter().flat_map(Self::backends).cloned().collect();
        let mut builder = Builder { target: authority, parent: &plan.parent, parts, known };
        let (requests, tls) = match plan.protocol {
            Protocol::Grpc => (RequestKind::Grpc, false),
            other => (RequestKind::Http, other == Protocol::Tls),
        };
        let mut http = |policy: &HttpPolicy| {
            Arc::new(builder.router(requests, &policy.routes, policy.accrual, false))
        };
        let http1 = http(&plan.http[0]);
        let http2 = if plan.http[0] == plan.http[1] { http1.clone() } else { http(&plan.http[1]) };
        let kind = if tls { ConnectionKind::Tls } else { ConnectionKind::Tcp };
        let connections = builder.router(kind, &plan.connections, None, tls);
        let profile = profile.zip(plan.canonical.as_ref()).map(|(profile, name)| {
            let before = before.and_then(|b| b.profile.as_ref());
            ProfileRoutes::new(profile, name, &parts.metrics, before)
        });
        let accepted = plan.protocol.counter(&parts.metrics, &plan.parent, authority.port());
        let canonical =
            plan.canonical.and_then(|name| HeaderValue::try_from(name.to_string()).ok());
        let http = [http1, http2];
        Self {
            protocol: plan.protocol,
            http,
            connections,
            profile,
            canonical,
            accepted,
            gone,
            discovered: false,
        }
    }

    /// The routes of requests of a version.
    pub(crate) fn http(&self, version: Version) -> &Router<OutboundRouteSeries> {
        let [http1, http2] = &self.http;
        if version == Version::HTTP_2 { http2 } else { http1 }
    }

    fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let http = self.http.iter().flat_map(|router| router.routes());
        let http = http.flat_map(LiveRoute::rules).flat_map(Rule::backends);
        let connections = self.connections.routes().iter().flat_map(LiveRoute::rules);
        http.chain(connections.flat_map(Rule::backends))
    }
}

impl Protocol {
    fn counter(self, metrics: &Metrics, parent: &Meta, port: u16) -> Counter {
        let protocol = match self {
            Self::Detect => ConnectionProtocol::Detect,
            Self::Http1 => ConnectionProtocol::Http1,
            Self::Http2 | Self::Grpc => ConnectionProtocol::Http2,
            Self::Opaque => ConnectionProtocol::Opaque,
            Self::Tls => ConnectionProtocol::Tls,
        };
        metrics.detect.connections(protocol, parent, port)
    }
}
