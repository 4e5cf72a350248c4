//! # Routes with live backends
//!
//! Job: the router of a destination: routes of any kind, each rule with its backends and series resolved.
//! Backends of the router before stay where their spec does.
//! May touch: values, backends. Must not touch: traffic. Callers: `target` (builds); `http`, `tcp` (choose).

use crate::{
    backend::{Backend, Spec},
    target::Parts,
};
use mesh_model::{
    authority::Authority,
    balance::Accrual,
    meta::Meta,
    outbound::{Distribution, OutboundRoute, OutboundRule, RouteBackend},
    route::{HostMatch, Route, RouteMatch, RouteTable},
};
use mesh_observe::{
    ConnectionKind, ConnectionRouteSeries, OutboundBackendSeries, OutboundRouteSeries, RequestKind,
};
use mesh_stack::weighted;
use std::sync::Arc;

/// The routes of one kind.
pub(crate) type Router<S> = RouteTable<LiveRoute<S>>;

/// What a kind of route counts: requests or connections.
pub(crate) trait Series: Sized {
    /// What differs between the families of the kind.
    type Kind: Copy;
    /// What is counted for each backend of a rule.
    type Backend;

    fn route(parts: &Parts, kind: Self::Kind, parent: (&Meta, u16), route: &Meta) -> Self;
    fn backend(
        parts: &Parts,
        kind: Self::Kind,
        parent: (&Meta, u16),
        route: &Meta,
        backend: &Meta,
    ) -> Self::Backend;
}

pub(crate) struct LiveRoute<S: Series> {
    meta: Meta,
    hosts: Vec<HostMatch>,
    rules: Vec<Rule<S>>,
}

pub(crate) struct Rule<S: Series> {
    /// The route's name, for errors.
    pub(crate) route: Meta,
    pub(crate) rule: OutboundRule,
    pub(crate) choice: Choice<S::Backend>,
    pub(crate) series: S,
}

/// [`Distribution`] with live backends.
pub(crate) enum Choice<B> {
    First(Vec<Part<B>>),
    /// Weights above zero.
    Split(Vec<(u32, Part<B>)>),
    Empty,
}

/// A backend as one rule uses it.
pub(crate) struct Part<B> {
    pub(crate) spec: RouteBackend,
    pub(crate) backend: Arc<Backend>,
    pub(crate) series: B,
}

/// Makes routers, and backends where there are none yet.
pub(crate) struct Builder<'a> {
    pub(crate) target: &'a Authority,
    pub(crate) parent: &'a Meta,
    pub(crate) parts: &'a Arc<Parts>,
    /// All backends made so far, and those of before.
    pub(crate) known: Vec<Arc<Backend>>,
}

// === impl Builder ===

impl Builder<'_> {
    pub(crate) fn router<S: Series>(
        &mut self,
        kind: S::Kind,
        routes: &[OutboundRoute],
        accrual: Option<Accrual>,
        tls: bool,
    ) -> Router<S> {
        let parent = (self.parent, self.target.port());
        let mut live = |route: &OutboundRoute| LiveRoute {
            meta: route.meta.clone(),
            hosts: route.hosts.clone(),
            rules: route
                .rules
                .iter()
                .map(|rule| Rule {
                    route: route.meta.clone(),
                    rule: rule.clone(),
                    series: S::route(self.parts, kind, parent, &route.meta),
                    choice: self.choice::<S>(kind, &route.meta, &rule.backends, (accrual, tls)),
                })
                .collect(),
        };
        RouteTable::new(routes.iter().map(&mut live).collect())
    }

    fn choice<S: Series>(
        &mut self,
        kind: S::Kind,
        route: &Meta,
        from: &Distribution,
        of: (Option<Accrual>, bool),
    ) -> Choice<S::Backend> {
        let (parts, parent) = (self.parts.clone(), (self.parent.clone(), self.target.port()));
        let mut part = |spec: &RouteBackend| Part {
            backend: self.backend(spec, of),
            series: S::backend(&parts, kind, (&parent.0, parent.1), route, &spec.backend.meta),
            spec: spec.clone(),
        };
        match from {
            Distribution::Empty => Choice::Empty,
            Distribution::First(list) => Choice::First(list.iter().map(part).collect()),
            Distribution::Random(list) => {
                let used = list.iter().filter(|(weight, _)| *weight > 0);
                Choice::Split(used.map(|(weight, spec)| (*weight, part(spec))).collect())
            }
        }
    }

    fn backend(
        &mut self,
        part: &RouteBackend,
        (accrual, tls): (Option<Accrual>, bool),
    ) -> Arc<Backend> {
        let parent = (self.parent.clone(), self.target.port());
        let spec = Spec { parent, backend: part.backend.clone(), accrual, tls };
        if let Some(found) = self.known.iter().find(|known| *known.spec() == spec) {
            return found.clone();
        }
        let new = Arc::new(Backend::new(spec, self.target, self.parts.clone()));
        self.known.push(new.clone());
        new
    }
}

// === impl Rule ===

impl<S: Series> Rule<S> {
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.choice.parts().map(|part| &part.backend)
    }

    /// Kind and name of the route, for errors.
    pub(crate) fn describe(&self) -> String {
        format!("{} {}", self.route.kind(), self.route.name())
    }
}

impl<S: Series> LiveRoute<S> {
    pub(crate) fn rule(&self, at: usize) -> Option<&Rule<S>> {
        self.rules.get(at)
    }

    pub(crate) fn rules(&self) -> &[Rule<S>] {
        &self.rules
    }
}

impl<S: Series> Route for LiveRoute<S> {
    fn hosts(&self) -> &[HostMatch] {
        &self.hosts
    }

    fn rules(&self) -> impl Iterator<Item = &[RouteMatch]> {
        self.rules.iter().map(|rule| &*rule.rule.matches)
    }
}

impl<S: Series> std::fmt::Debug for LiveRoute<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveRoute").field("meta", &self.meta).finish_non_exhaustive()
    }
}

// === impl Choice ===

impl<B> Choice<B> {
    /// Picks a backend among those that are available; if none is, one that says why.
    pub(crate) fn pick(&self, available: impl Fn(&Backend) -> bool) -> Option<&Part<B>> {
        match self {
            Self::First(list) => list.iter().find(|part| available(&part.backend)).or(list.first()),
            Self::Split(list) => {
                let usable = |(_, part): &(u32, Part<B>)| available(&part.backend);
                weighted::pick(list, &mut rand::rng(), usable, |(weight, _)| *weight)
                    .or(list.first())
                    .map(|(_, part)| part)
            }
            Self::Empty => None,
        }
    }

    /// Whether any backend is available.
    pub(crate) fn is_available(&self, available: impl Fn(&Backend) -> bool) -> bool {
        self.parts().any(|part| available(&part.backend))
    }

    fn parts(&self) -> impl Iterator<Item = &Part<B>> {
        let (first, split) = match self {
            Self::First(list) => (Some(list), None),
            Self::Split(list) => (None, Some(list)),
            Self::Empty => (None, None),
        };
        first.into_iter().flatten().chain(split.into_iter().flatten().map(|(_, part)| part))
    }
}

// === the kinds ===

impl Series for OutboundRouteSeries {
    type Kind = RequestKind;
    type Backend = OutboundBackendSeries;

    fn route(parts: &Parts, kind: RequestKind, parent: (&Meta, u16), route: &Meta) -> Self {
        parts.metrics.outbound_routes.route(kind, parent, route, parts.config.hostname_labels)
    }

    fn backend(
        parts: &Parts,
        kind: RequestKind,
        parent: (&Meta, u16),
        route: &Meta,
        backend: &Meta,
    ) -> OutboundBackendSeries {
        parts.metrics.outbound_routes.backend(kind, parent, route, backend)
    }
}

impl Series for ConnectionRouteSeries {
    type Kind = ConnectionKind;
    type Backend = ();

    fn route(parts: &Parts, kind: ConnectionKind, parent: (&Meta, u16), route: &Meta) -> Self {
        parts.metrics.outbound_routes.connections(kind, parent, route)
    }

    fn backend(_: &Parts, _: ConnectionKind, _: (&Meta, u16), _: &Meta, _: &Meta) {}
}
