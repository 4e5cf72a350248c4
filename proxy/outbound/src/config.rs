//! # Configuration
//!
//! Job: everything that outbound can be told, typed.
//! May touch: values. Must not touch: the environment (the wiring parses it). Callers: the wiring, tests.

use mesh_http::{BalanceParams, ServerParams};
use mesh_model::identity::DnsName;
use mesh_net::connect::ConnectOptions;
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// Settings of the outbound half.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long to wait for the first bytes of a connection.
    pub detect_timeout: Duration,
    /// How long a connection or request waits for the control plane to tell of an unknown destination: for the
    /// profile, and then for the policy.
    pub discovery_timeout: Duration,
    /// Discovery, routes and clients leave after this time without use.
    pub discovery_idle: Duration,
    /// HTTP requests that may be under way, until their responses begin.
    pub max_in_flight: usize,
    /// Servers toward the application.
    pub server: ServerParams,
    /// Balancers and clients of HTTP; backoff of TCP.
    pub balance: BalanceParams,
    /// Connections that may wait for an endpoint.
    pub tcp_queue_capacity: usize,
    /// How long they may wait before all fail at once.
    pub tcp_failfast: Duration,
    /// Whether series of routes have the request's host as a label.
    pub hostname_labels: bool,
    /// Sockets toward endpoints. The timeout covers TCP, TLS and transport header.
    pub connect: ConnectOptions,
    /// Addresses of this Pod: endpoints there are reached in plaintext.
    pub inbound_ips: BTreeSet<IpAddr>,
    /// Explicit mode: the zone of Service names, `cluster.local`.
    pub cluster_domain: DnsName,
    /// Which of profile and policy routes.
    pub routing: Routing,
}

impl Config {
    /// Balancers of connections.
    pub(crate) fn connection_params(&self) -> BalanceParams {
        BalanceParams {
            queue_capacity: self.tcp_queue_capacity,
            failfast: self.tcp_failfast,
            ..self.balance
        }
    }
}

/// Which discovery wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// A sidecar: policy, unless the profile has routes or splits traffic.
    #[default]
    Sidecar,
    /// A gateway: the same, to names alone; by the profile while no policy is known.
    Gateway,
}
