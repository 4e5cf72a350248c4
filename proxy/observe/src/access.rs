//! # Authorisations
//!
//! Job: who was let in, who was not, and requests without a route.
//! May touch: labels. Must not touch: the decision. Callers: inbound, admin, the gateway.

use crate::{
    labels::{Tls, authorization, route, server, target},
    series::{Counter, Family, LabelSet, Registrar},
};
use mesh_model::meta::Meta;
use std::net::SocketAddr;

/// The families of authorisation.
#[derive(Clone, Debug)]
pub struct InboundAccess {
    http: Access,
    tcp: Access,
    no_route: Family<Counter>,
    terminated: Family<Counter>,
}

/// Allowed and denied, of one kind.
#[derive(Clone, Debug)]
pub struct Access {
    allow: Family<Counter>,
    deny: Family<Counter>,
}

/// What was asked for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct AccessLabels<'a> {
    /// Original destination.
    pub target: SocketAddr,
    /// The client's TLS.
    pub tls: &'a Tls,
    /// The Server.
    pub server: &'a Meta,
    /// The route, for requests.
    pub route: Option<&'a Meta>,
}

impl InboundAccess {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            http: Access {
                allow: registrar.counters(
                    "inbound_http_authz_allow_total",
                    "The total number of inbound HTTP requests that were authorized",
                ),
                deny: registrar.counters(
                    "inbound_http_authz_deny_total",
                    "The total number of inbound HTTP requests that could not be processed due to being unauthorized",
                ),
            },
            tcp: Access {
                allow: registrar.counters(
                    "inbound_tcp_authz_allow_total",
                    "The total number of inbound TCP connections that were authorized",
                ),
                deny: registrar.counters(
                    "inbound_tcp_authz_deny_total",
                    "The total number of inbound TCP connections that were denied",
                ),
            },
            no_route: registrar.counters(
                "inbound_http_route_not_found_total",
                "The total number of inbound HTTP requests that could not be associated with a route",
            ),
            terminated: registrar.counters(
                "inbound_tcp_authz_terminate_total",
                "The total number of TCP connections that were terminated due to an authorization change",
            ),
        }
    }

    /// Requests.
    pub fn http(&self) -> &Access {
        &self.http
    }

    /// Connections.
    pub fn tcp(&self) -> &Access {
        &self.tcp
    }

    /// A request that no route matches.
    pub fn route_not_found(&self, labels: AccessLabels<'_>) {
        self.no_route.get(&labels.set(None)).incr();
    }

    /// An open connection ended by a change of policy.
    pub fn terminated(&self, labels: AccessLabels<'_>) {
        self.terminated.get(&labels.set(None)).incr();
    }
}

impl Access {
    /// The count of those let in by `authz`; keep it where many come.
    pub fn allowed(&self, labels: AccessLabels<'_>, authz: &Meta) -> Counter {
        self.allow.get(&labels.set(Some(authz)))
    }

    /// The count of those refused.
    pub fn denied(&self, labels: AccessLabels<'_>) -> Counter {
        self.deny.get(&labels.set(None))
    }
}

impl AccessLabels<'_> {
    fn set(&self, authz: Option<&Meta>) -> LabelSet {
        let mut labels = LabelSet::default();
        target(&mut labels, self.target);
        server(&mut labels, self.server, self.target.port());
        if let Some(meta) = self.route {
            route(&mut labels, meta);
        }
        if let Some(meta) = authz {
            authorization(&mut labels, meta);
        }
        self.tls.write(&mut labels);
        labels
    }
}
