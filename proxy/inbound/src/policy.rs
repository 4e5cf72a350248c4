//! # Policies of the ports
//!
//! Job: the policy of each port, from the default until the controller speaks; watched from the start for
//! known ports, from the first connection for others; made ready to be obeyed once for each change.
//! May touch: watched values. Must not touch: decisions (the model's), the network.
//! Callers: accept paths; the admin server.

use crate::rate::RateLimits;
use mesh_discover::policy::PolicyClient;
use mesh_model::{
    inbound::{DefaultPolicy, InboundRoute, ServerPolicy},
    ports::PortSet,
    route::RouteTable,
};
use mesh_stack::cache::{Cache, Handle};
use parking_lot::Mutex;
use std::{convert::Infallible, fmt, ops::Deref, sync::Arc, time::Duration};
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
    cache: Cache<u16, Port>,
    defaults: Arc<Defaults>,
    source: Arc<dyn PolicySource>,
}

/// What is known of a port.
struct Port {
    receiver: watch::Receiver<Arc<ServerPolicy>>,
    active: Mutex<Arc<Active>>,
}

/// A policy, ready to be obeyed. Reads as the policy that it is made of.
pub(crate) struct Active {
    policy: Arc<ServerPolicy>,
    /// Its routes.
    pub(crate) routes: RouteTable<InboundRoute>,
    /// Its limits.
    pub(crate) limits: Option<Arc<RateLimits>>,
}

/// The policy of one port, watched while this is held.
#[derive(Clone)]
pub(crate) struct PortPolicy(Handle<Port>);

/// A policy as one connection sees it: the same until [`Self::refresh`].
pub(crate) struct Following {
    port: PortPolicy,
    receiver: watch::Receiver<Arc<ServerPolicy>>,
    active: Arc<Active>,
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

// === impl Policies ===

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
        PortPolicy(handle)
    }

    fn watch(&self, port: u16) -> Port {
        let receiver = self.source.watch(port, self.defaults.of(port));
        let active = Active::new(receiver.borrow().clone(), None);
        Port { receiver, active: Mutex::new(Arc::new(active)) }
    }
}

// === impl PortPolicy ===

impl PortPolicy {
    /// The policy as it is now.
    pub(crate) fn now(&self) -> Arc<Active> {
        let mut active = self.0.active.lock();
        let policy = self.0.receiver.borrow().clone();
        if !Arc::ptr_eq(&policy, &active.policy) {
            *active = Arc::new(Active::new(policy, Some(&active)));
        }
        active.clone()
    }

    /// The policy as it is now, and a way to hear of changes.
    pub(crate) fn follow(&self) -> Following {
        let mut receiver = self.0.receiver.clone();
        // What changes from here on is seen as a change, even if it is in `active` already.
        receiver.mark_unchanged();
        Following { port: self.clone(), receiver, active: self.now() }
    }
}

// === impl Following ===

impl Following {
    /// Takes the newest policy; returns whether it is another one than before. Without a change this
    /// compares one number.
    pub(crate) fn refresh(&mut self) -> bool {
        let changed = match self.receiver.has_changed() {
            Ok(changed) => changed,
            // Nobody tells any more; the last word counts.
            Err(_) => !Arc::ptr_eq(&self.receiver.borrow(), &self.active.policy),
        };
        if !changed {
            return false;
        }
        self.receiver.mark_unchanged();
        let active = self.port.now();
        let other = !Arc::ptr_eq(&active, &self.active);
        self.active = active;
        other
    }

    /// Waits for a change; for ever if none can come.
    pub(crate) async fn changed(&mut self) {
        loop {
            if self.receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            self.receiver.mark_changed();
            if self.refresh() {
                return;
            }
        }
    }

    pub(crate) fn active(&self) -> &Arc<Active> {
        &self.active
    }
}

// === impl Active ===

impl Active {
    /// What is left of limits that have not changed is kept.
    fn new(policy: Arc<ServerPolicy>, before: Option<&Self>) -> Self {
        let kept = before.and_then(|before| before.limits.clone());
        let limits = policy.rate_limit.as_ref().map(|config| match kept {
            Some(kept) if **kept.config() == **config => kept,
            _ => Arc::new(RateLimits::new(config.clone())),
        });
        let routes = RouteTable::new(policy.protocol.routes().to_vec());
        Self { policy, routes, limits }
    }
}

impl Deref for Active {
    type Target = ServerPolicy;

    fn deref(&self) -> &ServerPolicy {
        &self.policy
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("ports", &self.cache.len()).finish_non_exhaustive()
    }
}
