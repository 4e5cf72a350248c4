//! # Backends
//!
//! Job: one place that routes lead to, with the balancers that carry requests and connections there, made
//! when first used.
//! May touch: discovery of endpoints, balancers. Must not touch: routes, what is sent. Callers: `routes`
//! (makes them), `http` and `tcp` (send).

use crate::{
    metrics::{BackendObserver, BalancerLabels},
    target::Parts,
    tcp::TcpBalancer,
};
use mesh_discover::State;
use mesh_http::{BalanceParams, Balancer};
use mesh_model::{
    authority::{Authority, NameAddr},
    balance::{Accrual, Balancing},
    endpoint::{Endpoint, EndpointMetadata, EndpointSet},
    meta::Meta,
    outbound::{self as model, BackendKind},
};
use mesh_observe::Metrics;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// What makes a backend what it is: while this stays, its connections stay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    /// Whose routes lead here, and the port that was asked for.
    pub(crate) parent: (Meta, u16),
    pub(crate) backend: model::Backend,
    pub(crate) accrual: Option<Accrual>,
    /// Connections that bring TLS of their own; they count in families of their own.
    pub(crate) tls: bool,
}

pub(crate) struct Backend {
    spec: Spec,
    reach: Reach,
    /// The `authority` label.
    authority: String,
    parts: Arc<Parts>,
    http: OnceLock<Balancer>,
    tcp: OnceLock<TcpBalancer>,
}

/// How endpoints are found.
enum Reach {
    Balance(NameAddr, Balancing),
    Forward(Endpoint),
    /// The controller names no way.
    Nowhere,
}

impl Backend {
    pub(crate) fn new(spec: Spec, target: &Authority, parts: Arc<Parts>) -> Self {
        let reach = match &spec.backend.kind {
            BackendKind::Balance { addr, balancing } => Reach::Balance(addr.clone(), *balancing),
            BackendKind::Forward(endpoint) => Reach::Forward(endpoint.clone()),
            BackendKind::OriginalDst(addr) => Reach::Forward(plain(*addr)),
            BackendKind::Unknown => Reach::Nowhere,
        };
        let authority = match &reach {
            Reach::Balance(addr, _) => addr.to_string(),
            Reach::Forward(_) | Reach::Nowhere => target.to_string(),
        };
        let (http, tcp) = (OnceLock::new(), OnceLock::new());
        Self { spec, reach, authority, parts, http, tcp }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.spec.backend.meta
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
        matches!(self.reach, Reach::Forward(_))
    }

    /// `None` if the policy names no way.
    pub(crate) fn http(&self) -> Option<&Balancer> {
        let parts = &self.parts;
        let with = || {
            let mut params = BalanceParams { accrual: self.spec.accrual, ..parts.config.balance };
            self.apply_queue(&mut params);
            let observe = BackendObserver {
                metrics: parts.metrics.clone(),
                authority: self.authority.clone(),
                own: parts.config.inbound_ips.clone(),
                meter: self.labels().http(&parts.metrics, params.failfast),
            };
            (Arc::new(parts.connector.clone()), observe, params)
        };
        match &self.reach {
            Reach::Nowhere => None,
            Reach::Balance(addr, balancing) => Some(self.http.get_or_init(|| {
                let (connect, observe, params) = with();
                let params = BalanceParams { balancing: *balancing, ..params };
                let endpoints = parts.discover.endpoints(addr);
                Balancer::new(endpoints, self.view(), connect, Arc::new(observe), params)
            })),
            Reach::Forward(endpoint) => Some(self.http.get_or_init(|| {
                let (connect, observe, params) = with();
                Balancer::forward(parts.connector.localized(endpoint), connect, &observe, params)
            })),
        }
    }

    /// `None` if the policy names no way.
    pub(crate) fn tcp(&self) -> Option<&TcpBalancer> {
        let (connector, mut params) =
            (self.parts.connector.clone(), self.parts.config.connection_params());
        self.apply_queue(&mut params);
        let meter = || self.labels().tcp(&self.parts.metrics, self.spec.tls, params.failfast);
        match &self.reach {
            Reach::Nowhere => None,
            Reach::Balance(addr, balancing) => Some(self.tcp.get_or_init(|| {
                let params = BalanceParams { balancing: *balancing, ..params };
                let endpoints = self.parts.discover.endpoints(addr);
                TcpBalancer::new(endpoints, self.view(), connector, meter(), params)
            })),
            Reach::Forward(endpoint) => Some(self.tcp.get_or_init(|| {
                let endpoint = self.parts.connector.localized(endpoint);
                TcpBalancer::forward(endpoint, connector, meter(), params)
            })),
        }
    }

    /// A policy that says who may wait is obeyed.
    fn apply_queue(&self, params: &mut BalanceParams) {
        if let Some(queue) = self.spec.backend.queue {
            params.queue_capacity = queue.capacity as usize;
            params.failfast = queue.failfast;
        }
    }

    fn labels(&self) -> BalancerLabels<'_> {
        let Spec { parent: (parent, port), .. } = &self.spec;
        BalancerLabels { parent: (parent, *port), backend: self.meta(), concrete: &self.authority }
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
}

fn plain(addr: SocketAddr) -> Endpoint {
    Endpoint { addr, metadata: Arc::new(EndpointMetadata::default()) }
}
