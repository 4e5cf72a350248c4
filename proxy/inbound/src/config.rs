//! # Settings of inbound
//!
//! Job: what the wiring has to say once. May touch: values. Callers: the wiring, tests.

use crate::{access_log::AccessLog, profiles::Profiles};
use mesh_http::{ServerParams, client::ClientParams};
use mesh_model::{endpoint::Http2Params, identity::DnsName};
use mesh_net::{connect::ConnectOptions, listen::Liveness, orig_dst};
use mesh_stack::backoff::Backoff;
use std::{net::IpAddr, num::NonZeroU16, time::Duration};

/// Settings of the inbound half.
#[derive(Clone, Debug)]
pub struct Config {
    /// The proxy's own inbound port, where transport headers are taken.
    pub port: NonZeroU16,
    /// Where this proxy serves its own Pod's clients: nobody else is let through to there.
    pub outbound_ports: Vec<u16>,
    /// Where the original destination is learned.
    pub orig_dst: orig_dst::Source,
    /// Addresses of this Pod; empty takes any original destination.
    pub ips: Vec<IpAddr>,
    /// The name that clients of the mesh send as SNI.
    pub server_name: DnsName,
    /// Longest wait for the first bytes, for TLS, and for a transport header.
    pub detect_timeout: Duration,
    /// How connections to the application are opened.
    pub connect: ConnectOptions,
    /// HTTP servers; informational headers are decided per connection.
    pub server: ServerParams,
    /// Backoff of connections to the application.
    pub backoff: Backoff,
    /// Requests in flight, until their response's head.
    pub max_in_flight: usize,
    /// Requests that wait for the application.
    pub queue_capacity: usize,
    /// How long they wait before all fail at once.
    pub failfast: Duration,
    /// Idle HTTP/1 connections to the application that are kept, and how long.
    pub http1_idle: (usize, Duration),
    /// HTTP/2 toward the application.
    pub http2: Http2Params,
    /// Clients of the application unused for this long are dropped.
    pub idle: Duration,
    /// Where each request is told, if anywhere.
    pub access_log: Option<AccessLog>,
    /// Whose routes requests are counted by, if anybody's.
    pub profiles: Option<Profiles>,
    /// Whether series of requests show the name that the client gave; clients can make any number of them.
    pub authority_labels: bool,
}

impl Config {
    /// Linkerd's defaults for a proxy with this port and name.
    pub fn new(port: NonZeroU16, server_name: DnsName) -> Self {
        let connect = ConnectOptions {
            source: None,
            timeout: Duration::from_millis(300),
            liveness: Liveness::default(),
        };
        Self {
            port,
            outbound_ports: Vec::new(),
            orig_dst: orig_dst::Source::Redirect,
            ips: Vec::new(),
            server_name,
            detect_timeout: Duration::from_secs(10),
            connect,
            server: ServerParams::default(),
            backoff: Backoff::INBOUND,
            max_in_flight: 100_000,
            queue_capacity: 10_000,
            failfast: Duration::from_secs(1),
            http1_idle: (10_000, Duration::from_secs(3)),
            http2: ClientParams::default().http2,
            idle: Duration::from_secs(90),
            access_log: None,
            profiles: None,
            authority_labels: false,
        }
    }

    /// Whether a port is this proxy's, and not the application's.
    pub(crate) fn is_own(&self, port: NonZeroU16) -> bool {
        port == self.port || self.outbound_ports.contains(&port.get())
    }
}
