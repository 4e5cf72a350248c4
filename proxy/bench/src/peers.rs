//! # Peers
//!
//! Job: start one pair of proxies, or trio with a gateway, in the rig: none at all, HAProxy, Envoy, ours,
//! Linkerd's if it is at hand.
//! May touch: the rig. Must not touch: load. Callers: the bench, the soak, the count of instructions.

mod envoy;
mod haproxy;
mod mesh;

pub(crate) use mesh::ADMIN;

use crate::{
    process::{Proc, Usage},
    rig::Rig,
};
use anyhow::Result;
use std::{fmt, time::Duration};

/// What carries the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Peer {
    /// Nothing: the client's packets reach the server.
    Direct,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Linkerd's proxy, from `LINKERD_PROXY`.
    Linkerd,
    /// Ours.
    Mesh,
}

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Threads that carry traffic, each proxy.
    pub(crate) workers: usize,
    /// Also start the gateway.
    pub(crate) gateway: bool,
    /// Run the proxies under this program, e. g. valgrind with its arguments.
    pub(crate) under: Vec<String>,
}

/// Running proxies: client, server, and gateway if asked for.
pub(crate) struct Running {
    pub(crate) proxies: Vec<Proc>,
}

/// Which proxy of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
    Gateway,
}

/// The ports that the rig serves. Peers that are told by file have one listener for each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    /// Where the application listens.
    pub(crate) app: u16,
    pub(crate) kind: Kind,
    /// Listener of the client's proxy.
    pub(crate) out: u16,
    /// Listener of the server's proxy.
    pub(crate) inn: u16,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http1,
    Http2,
    Tcp,
}

/// HTTP/1; HTTP/2; HTTP/1 that nobody looks into; gRPC; bulk.
pub(crate) const PORTS: [Port; 5] = [
    Port { app: 8080, kind: Kind::Http1, out: 14_000, inn: 15_000 },
    Port { app: 8081, kind: Kind::Http2, out: 14_001, inn: 15_001 },
    Port { app: 8082, kind: Kind::Tcp, out: 14_002, inn: 15_002 },
    Port { app: 8083, kind: Kind::Http2, out: 14_003, inn: 15_003 },
    Port { app: 5201, kind: Kind::Tcp, out: 14_004, inn: 15_004 },
];
/// The Service behind the gateway, HTTP/1: listener of the client's proxy, of the gateway.
pub(crate) const REMOTE: (u16, u16) = (14_010, 16_000);

impl Peer {
    /// Starts it and waits until it serves.
    pub(crate) fn start(self, rig: &Rig, options: &Options) -> Result<Running> {
        let proxies = match self {
            Self::Direct => rig.forward_directly().map(|()| Vec::new()),
            Self::Haproxy => haproxy::start(rig, options),
            Self::Envoy => envoy::start(rig, options),
            Self::Linkerd => mesh::start(rig, options, &rig.tools.linkerd()?, "linkerd"),
            Self::Mesh => mesh::start(rig, options, &rig.tools.mesh, "mesh"),
        }?;
        Ok(Running { proxies })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Linkerd => "linkerd",
            Self::Mesh => "mesh",
        })
    }
}

impl Running {
    /// What each has used so far.
    pub(crate) fn usage(&self) -> Result<Vec<Usage>> {
        self.proxies.iter().map(Proc::usage).collect()
    }

    pub(crate) fn stop(self, patience: Duration) {
        // The client's first, so that the others have nobody to wait for.
        self.proxies.into_iter().for_each(|proxy| proxy.stop(patience));
    }
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Gateway => "gateway",
        }
    }

    /// Its mesh identity.
    pub(crate) fn identity(self) -> String {
        format!("{}.default.serviceaccount.identity.linkerd.cluster.local", self.name())
    }

    /// The roles that `options` ask for, in the order in which they are reported.
    fn all(options: &Options) -> impl Iterator<Item = Self> {
        [Self::Client, Self::Server, Self::Gateway]
            .into_iter()
            .take(2 + usize::from(options.gateway))
    }
}
