//! # Policies of the ports
//!
//! Job: the policy of each port, from the default until the controller speaks; watched from the start for
//! known ports, from the first connection for others.
//! May touch: watched values. Must not touch: decisions (the model's), the network.
//! Callers: accept paths; the admin server.

use mesh_discover::policy::PolicyClient;
use mesh_model::{
    inbound::{DefaultPolicy, ServerPolicy},
    ports::PortSet,
};
use mesh_stack::cache::{Cache, Handle};
use std::{convert::Infallible, fmt, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Where policies come from.
pub trait PolicySource: Send + Sync + 'static {
    /// The policy of a port, `start` until something better is known. The watch lasts as long as the
    /// receiver.
    fn watch(&self, port: u16, start: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>>;
}

impl PolicySource for PolicyClient {
    fn watch(&self, port: u16, start: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>> {
        self.inbound(port, start)
    }
}

/// What a port has until the controller speaks.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The policy.
    pub policy: DefaultPolicy,
    /// Networks of the `cluster-*` policies.
    pub cluster_networks: Vec<ipnet::IpNet>,
    /// Ports on which nothing is sniffed.
    pub opaque: PortSet,
    /// Longest wait for the first bytes.
    pub detect_timeout: Duration,
}

/// The policies of all ports. Clones, on any thread, share them.
#[derive(Clone)]
pub struct Policies {
    cache: Cache<u16, watch::Receiver<Arc<ServerPolicy>>>,
    defaults: Arc<Defaults>,
    source: Arc<dyn PolicySource>,
}

/// The policy of one port, watched while this is held.
#[derive(Clone)]
pub(crate) struct PortPolicy {
    receiver: watch::Receiver<Arc<ServerPolicy>>,
    _watched: Handle<watch::Receiver<Arc<ServerPolicy>>>,
}

impl Defaults {
    fn of(&self, port: u16) -> Arc<ServerPolicy> {
        let networks = &self.cluster_networks;
        Arc::new(if self.opaque.contains(port) {
            self.policy.opaque_policy(networks)
        } else {
            self.policy.policy(networks, self.detect_timeout)
        })
    }
}

impl Policies {
    /// Watches `eager` ports from now on and for ever; others from their first use until they are idle
    /// for `idle`.
    pub fn new(
        defaults: Defaults,
        source: Arc<dyn PolicySource>,
        eager: impl IntoIterator<Item = u16>,
        idle: Duration,
    ) -> Self {
        let policies = Self { cache: Cache::new(idle), defaults: Arc::new(defaults), source };
        for port in eager {
            policies.cache.insert_permanent(port, policies.watch(port));
        }
        policies
    }

    pub(crate) async fn get(&self, port: u16) -> PortPolicy {
        let build = || async { Ok::<_, Infallible>(self.watch(port)) };
        let Ok(handle) = self.cache.get_or_build(&port, build).await;
        PortPolicy { receiver: (*handle).clone(), _watched: handle }
    }

    fn watch(&self, port: u16) -> watch::Receiver<Arc<ServerPolicy>> {
        self.source.watch(port, self.defaults.of(port))
    }
}

impl PortPolicy {
    /// The policy as it is now.
    pub(crate) fn now(&self) -> Arc<ServerPolicy> {
        self.receiver.borrow().clone()
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("ports", &self.cache.len()).finish_non_exhaustive()
    }
}
