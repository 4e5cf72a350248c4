//! # Targets
//!
//! Job: one destination as it is known now: its plan, and the backends that carry it out. Follows
//! discovery; backends that stay keep their connections.
//! May touch: discovery streams, balancers. Must not touch: accepted connections. Callers: `sidecar`,
//! `explicit`, the gateway.

use crate::{
    config::{Config, Routing},
    connect::Connector,
    discover::Discover,
    error::DiscoverError,
    metrics::BackendObserver,
    plan::{self, Plan, Protocol, Route, Spec},
    tcp::TcpBalancer,
};
use arc_swap::ArcSwap;
use http::HeaderValue;
use mesh_discover::{Refusal, RefusalCode, State, settled};
use mesh_http::{BalanceParams, Balancer};
use mesh_model::{
    authority::Authority, endpoint::EndpointSet, outbound::OutboundPolicy, profile::Profile,
};
use mesh_observe::Metrics;
use mesh_stack::weighted;
use std::sync::{Arc, OnceLock};
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
    _follow: DropGuard,
}

/// A plan with its backends.
pub(crate) struct Active {
    pub(crate) protocol: Protocol,
    pub(crate) http: Choice,
    pub(crate) opaque: Choice,
    /// Value of `l5d-dst-canonical`.
    pub(crate) canonical: Option<HeaderValue>,
    /// The control plane says that the destination is not there, or not for us, any more.
    gone: Option<DiscoverError>,
}

/// [`Route`] with live backends.
pub(crate) enum Choice {
    First(Vec<Arc<Backend>>),
    Split(Vec<(u32, Arc<Backend>)>),
    None,
    Forbidden(String),
    Invalid(String),
}

/// A backend and its balancers, made when first used.
pub(crate) struct Backend {
    spec: Spec,
    authority: String,
    parts: Arc<Parts>,
    http: OnceLock<Balancer>,
    tcp: OnceLock<TcpBalancer>,
}

/// The two streams about a destination.
struct Sources {
    profile: watch::Receiver<State<Profile>>,
    policy: watch::Receiver<State<OutboundPolicy>>,
}

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
        let needs_policy = parts.config.routing == Routing::Sidecar;
        settled(&mut sources.profile, limit).await?;
        if let Some(error) = gone(authority, &sources.profile.borrow()) {
            return Err(error);
        }
        if needs_policy {
            settled(&mut sources.policy, limit).await?;
        }
        let active = sources.active(authority, &parts, None)?;
        let now = Arc::new(ArcSwap::from_pointee(active));
        let stop = CancellationToken::new();
        let follow = follow(authority.clone(), sources, parts, now.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(follow).await });
        Ok(Self { authority: authority.clone(), now, _follow: stop.drop_guard() })
    }

    /// What was asked about.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether connections carry bytes that are not to be looked at.
    pub fn is_opaque(&self) -> bool {
        self.active().protocol == Protocol::Opaque
    }

    /// Why the destination is no more, if it is.
    pub fn gone(&self) -> Option<DiscoverError> {
        self.active().gone.clone()
    }

    /// Forgets the backoffs of all endpoints.
    pub fn reset_backoff(&self) {
        let active = self.active();
        for choice in [&active.http, &active.opaque] {
            choice.backends().for_each(|b| b.reset_backoff());
        }
    }

    pub(crate) fn active(&self) -> arc_swap::Guard<Arc<Active>> {
        self.now.load()
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
        Ok(Active::new(plan, gone(authority, &profile), authority, parts, before))
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

/// Whether a refused profile means that the destination is no more. An address without a profile is just an
/// address; a name without one is not there, or not for us.
fn gone(authority: &Authority, profile: &State<Profile>) -> Option<DiscoverError> {
    match (authority, profile) {
        (Authority::Name(_), State::Refused(refusal)) => Some(refused(refusal)),
        (Authority::Name(_) | Authority::Socket(_), _) => None,
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
        gone: Option<DiscoverError>,
        authority: &Authority,
        parts: &Arc<Parts>,
        before: Option<&Self>,
    ) -> Self {
        let mut made: Vec<Arc<Backend>> = before
            .into_iter()
            .flat_map(|b| b.http.backends().chain(b.opaque.backends()).cloned())
            .collect();
        let mut backend = |spec: Spec| {
            if let Some(found) = made.iter().find(|b| b.spec == spec) {
                return found.clone();
            }
            let new = Arc::new(Backend::new(spec, authority, parts.clone()));
            made.push(new.clone());
            new
        };
        let mut choice = |route: Route| match route {
            Route::First(specs) => Choice::First(specs.into_iter().map(&mut backend).collect()),
            Route::Split(specs) => {
                Choice::Split(specs.into_iter().map(|(w, s)| (w, backend(s))).collect())
            }
            Route::None => Choice::None,
            Route::Forbidden(by) => Choice::Forbidden(by),
            Route::Invalid(reason) => Choice::Invalid(reason),
        };
        let (http, opaque) = (choice(plan.http), choice(plan.opaque));
        let canonical =
            plan.canonical.and_then(|name| HeaderValue::try_from(name.to_string()).ok());
        Self { protocol: plan.protocol, http, opaque, canonical, gone }
    }
}

impl Choice {
    /// Picks a backend among those that are available; if none is, one that says why.
    pub(crate) fn pick(&self, available: impl Fn(&Backend) -> bool) -> Option<&Arc<Backend>> {
        match self {
            Self::First(list) => list.iter().find(|b| available(b)).or(list.first()),
            Self::Split(list) => {
                weighted::pick(list, &mut rand::rng(), |(_, b)| available(b), |(w, _)| *w)
                    .or(list.first())
                    .map(|(_, backend)| backend)
            }
            Self::None | Self::Forbidden(_) | Self::Invalid(_) => None,
        }
    }

    fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let (first, split) = match self {
            Self::First(list) => (Some(list), None),
            Self::Split(list) => (None, Some(list)),
            Self::None | Self::Forbidden(_) | Self::Invalid(_) => (None, None),
        };
        first.into_iter().flatten().chain(split.into_iter().flatten().map(|(_, b)| b))
    }
}

impl Backend {
    fn new(spec: Spec, authority: &Authority, parts: Arc<Parts>) -> Self {
        let authority = match &spec {
            Spec::Balance { addr, .. } => addr.to_string(),
            Spec::Forward(_) => authority.to_string(),
        };
        Self { spec, authority, parts, http: OnceLock::new(), tcp: OnceLock::new() }
    }

    /// Whether HTTP can be sent here: not while it fails fast.
    pub(crate) fn takes_http(&self) -> bool {
        self.http.get().is_none_or(Balancer::is_available)
    }

    /// Whether connections can be sent here.
    pub(crate) fn takes_tcp(&self) -> bool {
        self.tcp.get().is_none_or(TcpBalancer::is_available)
    }

    /// A single endpoint, whose wish to close the client's connection is followed.
    pub(crate) fn is_forward(&self) -> bool {
        matches!(self.spec, Spec::Forward(_))
    }

    pub(crate) fn http(&self) -> &Balancer {
        self.http.get_or_init(|| {
            let parts = &self.parts;
            let connect = Arc::new(parts.connector.clone());
            let observe = BackendObserver {
                metrics: parts.metrics.clone(),
                authority: self.authority.clone(),
                own: parts.config.inbound_ips.clone(),
            };
            match &self.spec {
                Spec::Forward(endpoint) => Balancer::forward(
                    parts.connector.localized(endpoint),
                    connect,
                    &observe,
                    parts.config.balance,
                ),
                Spec::Balance { addr, ewma } => {
                    let params = BalanceParams { ewma: *ewma, ..parts.config.balance };
                    let endpoints = parts.discover.endpoints(addr);
                    let view = self.view();
                    Balancer::new(endpoints, view, connect, Arc::new(observe), params)
                }
            }
        })
    }

    pub(crate) fn tcp(&self) -> &TcpBalancer {
        self.tcp.get_or_init(|| {
            let parts = &self.parts;
            let (connector, params) = (parts.connector.clone(), parts.config.balance);
            match &self.spec {
                Spec::Forward(endpoint) => {
                    TcpBalancer::forward(parts.connector.localized(endpoint), connector, params)
                }
                Spec::Balance { addr, ewma } => {
                    let params = BalanceParams { ewma: *ewma, ..params };
                    let endpoints = parts.discover.endpoints(addr);
                    TcpBalancer::new(endpoints, self.view(), connector, params)
                }
            }
        })
    }

    /// The set that a balancer follows.
    fn view(&self) -> impl Fn(&State<EndpointSet>) -> Option<EndpointSet> + Send + use<> {
        let connector = self.parts.connector.clone();
        move |state| match state {
            State::Pending => None,
            State::Known(set) => Some(connector.localized_set(set.clone())),
            State::Refused(_) => Some(EndpointSet::Unknown),
        }
    }

    fn reset_backoff(&self) {
        if let Some(balancer) = self.http.get() {
            balancer.reset_backoff();
        }
        if let Some(balancer) = self.tcp.get() {
            balancer.reset_backoff();
        }
    }
}
