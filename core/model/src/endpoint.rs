//! # Endpoints
//!
//! Job: one address that can serve a destination, with all that a client must know to reach it, and
//! the updates a destination stream carries.
//! May touch: values. Must not touch: sockets. Callers: destination, the balancer, the gateway.

use crate::{
    authority::NameAddr,
    identity::{DnsName, Identity},
};
use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

/// Metric labels in key order (without the `dst_` prefix).
pub type Labels = Arc<BTreeMap<String, String>>;

/// One address of a destination (`destination.WeightedAddr`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the application (or the gateway) listens.
    pub addr: SocketAddr,
    /// What discovery says of it.
    pub metadata: Arc<EndpointMetadata>,
}

/// Everything about an endpoint but its address. Existing connections stay while all but the weight is
/// equal; see [`Self::serves`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointMetadata {
    /// Expected server identity; `None` means plaintext.
    pub tls: Option<TlsTarget>,
    /// How the peer wants HTTP to arrive.
    pub hint: ProtocolHint,
    /// The peer's inbound proxy port, where a transport header is accepted.
    pub opaque_transport: Option<NonZeroU16>,
    /// Name and port of the Service behind a gateway.
    pub authority_override: Option<NameAddr>,
    /// HTTP/2 client settings asked for by the control plane.
    pub http2: Http2Params,
    /// Labels of address and set merged, the address's winning.
    pub labels: Labels,
    /// Relative weight in 1/10000; 0 where discovery says nothing, which balancers take as
    /// [`DEFAULT_WEIGHT`].
    pub weight: u32,
}

/// Whom a client expects at the other end of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsTarget {
    /// Must be among the leaf's SANs.
    pub id: Identity,
    /// Sent as SNI.
    pub server_name: DnsName,
}

/// `destination.ProtocolHint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolHint {
    /// Nothing known: keep the protocol as it came.
    #[default]
    Unknown,
    /// Carry all HTTP over HTTP/2.
    Http2,
    /// Do not treat as HTTP.
    Opaque,
}

/// `http2.Http2ClientParams`, the part with effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Http2Params {
    /// PING interval and timeout, and whether to ping without streams.
    pub keep_alive: Option<KeepAlive>,
    /// Stream window, bytes.
    pub initial_stream_window: Option<u32>,
    /// Connection window, bytes.
    pub initial_connection_window: Option<u32>,
}

/// HTTP/2 keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    /// Time between PINGs.
    pub interval: Duration,
    /// Time to wait for the answer before the connection is closed.
    pub timeout: Duration,
    /// Also without open streams.
    pub while_idle: bool,
}

/// One message of a destination stream (`destination.Update`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointUpdate {
    /// Insert or replace.
    Add(Vec<Endpoint>),
    /// Take away.
    Remove(Vec<SocketAddr>),
    /// The destination has none; `exists` tells an empty Service from an unknown one.
    NoEndpoints {
        /// Whether the Service exists.
        exists: bool,
    },
}

/// The endpoints of a destination as a client sees them now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSet {
    /// Known endpoints (possibly none).
    Known(BTreeMap<SocketAddr, Arc<EndpointMetadata>>),
    /// The destination does not exist.
    Unknown,
}

/// Weight of an endpoint that nothing says otherwise about.
pub const DEFAULT_WEIGHT: u32 = 10_000;

impl EndpointMetadata {
    /// Whether connections made under `self` serve under `other`: the weight is no matter of connections.
    pub fn serves(&self, other: &Self) -> bool {
        self == other || Self { weight: other.weight, ..self.clone() } == *other
    }
}

impl Default for EndpointSet {
    fn default() -> Self {
        Self::Known(BTreeMap::new())
    }
}

impl EndpointSet {
    /// Applies one message; true if anything changed. Equal metadata keeps the old value, so that
    /// holders of an endpoint can compare pointers.
    pub fn apply(&mut self, update: EndpointUpdate) -> bool {
        match update {
            EndpointUpdate::Add(added) => {
                let mut changed = matches!(self, Self::Unknown);
                let mut known = self.take_known();
                for Endpoint { addr, metadata } in added {
                    if known.get(&addr) != Some(&metadata) {
                        known.insert(addr, metadata);
                        changed = true;
                    }
                }
                *self = Self::Known(known);
                changed
            }
            EndpointUpdate::Remove(gone) => {
                let Self::Known(known) = self else { return false };
                let before = known.len();
                for addr in gone {
                    known.remove(&addr);
                }
                known.len() != before
            }
            EndpointUpdate::NoEndpoints { exists } => {
                let next = if exists { Self::default() } else { Self::Unknown };
                let changed = *self != next;
                *self = next;
                changed
            }
        }
    }

    /// Makes the set exactly `endpoints`; true if anything changed.
    pub fn replace(&mut self, endpoints: Vec<Endpoint>) -> bool {
        let mut changed = matches!(self, Self::Unknown);
        let mut known = self.take_known();
        let before = known.len();
        let keep: std::collections::BTreeSet<_> = endpoints.iter().map(|e| e.addr).collect();
        known.retain(|addr, _| keep.contains(addr));
        changed |= known.len() != before;
        *self = Self::Known(known);
        self.apply(EndpointUpdate::Add(endpoints)) || changed
    }

    /// The endpoints; none for an unknown destination.
    pub fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &Arc<EndpointMetadata>)> {
        match self {
            Self::Known(known) => Some(known.iter()).into_iter().flatten(),
            Self::Unknown => None.into_iter().flatten(),
        }
    }

    /// Number of endpoints.
    pub fn len(&self) -> usize {
        match self {
            Self::Known(known) => known.len(),
            Self::Unknown => 0,
        }
    }

    /// Whether there is no endpoint.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_known(&mut self) -> BTreeMap<SocketAddr, Arc<EndpointMetadata>> {
        match std::mem::take(self) {
            Self::Known(known) => known,
            Self::Unknown => BTreeMap::new(),
        }
    }
}

/// Endpoints across reconnects of their stream: the last good set serves on, and the first message of
/// the new stream replaces it.
#[derive(Clone, Debug, Default)]
pub struct EndpointTracker {
    set: EndpointSet,
    resync: bool,
}

impl EndpointTracker {
    /// Starts from a set known before, such as a snapshot; the first message replaces it.
    pub fn resume(set: EndpointSet) -> Self {
        Self { set, resync: true }
    }

    /// To be called when a new stream replaces a broken one.
    pub fn reconnected(&mut self) {
        self.resync = true;
    }

    /// Applies a message; true if the set changed. After a reconnect the first `Add` replaces the whole
    /// set, and a `Remove` before it is ignored, since it speaks of a view never received.
    pub fn apply(&mut self, update: EndpointUpdate) -> bool {
        if !self.resync {
            return self.set.apply(update);
        }
        match update {
            EndpointUpdate::Remove(_) => false,
            EndpointUpdate::Add(endpoints) => {
                self.resync = false;
                self.set.replace(endpoints)
            }
            none @ EndpointUpdate::NoEndpoints { .. } => {
                self.resync = false;
                self.set.apply(none)
            }
        }
    }

    /// The endpoints now.
    pub fn set(&self) -> &EndpointSet {
        &self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(addr: &str, weight: u32) -> Endpoint {
        let metadata = EndpointMetadata { weight, ..EndpointMetadata::default() };
        Endpoint { addr: addr.parse().unwrap(), metadata: Arc::new(metadata) }
    }

    fn addrs(tracker: &EndpointTracker) -> Vec<String> {
        tracker.set().iter().map(|(addr, _)| addr.to_string()).collect()
    }

    #[test]
    fn only_changes_are_reported() {
        let mut set = EndpointSet::default();
        let a = endpoint("10.0.0.1:80", 1);
        assert!(set.apply(EndpointUpdate::Add(vec![a.clone()])));
        let kept = set.iter().next().unwrap().1.clone();
        assert!(!set.apply(EndpointUpdate::Add(vec![endpoint("10.0.0.1:80", 1)])));
        assert!(Arc::ptr_eq(&kept, set.iter().next().unwrap().1), "equal metadata keeps the old");
        assert!(set.apply(EndpointUpdate::Add(vec![endpoint("10.0.0.1:80", 2)])));
        assert!(!set.apply(EndpointUpdate::Remove(vec!["10.0.0.2:80".parse().unwrap()])));
        assert!(set.apply(EndpointUpdate::Remove(vec![a.addr])));
        assert!(!set.apply(EndpointUpdate::NoEndpoints { exists: true }));
        assert!(set.apply(EndpointUpdate::NoEndpoints { exists: false }));
        assert_eq!(set, EndpointSet::Unknown);
        assert!(set.apply(EndpointUpdate::Add(vec![])), "unknown became known and empty");
    }

    #[test]
    fn the_first_add_after_a_reconnect_replaces() {
        let mut tracker = EndpointTracker::default();
        tracker.apply(EndpointUpdate::Add(vec![endpoint("10.0.0.1:80", 1)]));
        tracker.apply(EndpointUpdate::Add(vec![endpoint("10.0.0.2:80", 1)]));
        tracker.reconnected();
        assert!(!tracker.apply(EndpointUpdate::Remove(vec!["10.0.0.1:80".parse().unwrap()])));
        assert_eq!(addrs(&tracker), ["10.0.0.1:80", "10.0.0.2:80"], "the old set serves on");
        assert!(tracker.apply(EndpointUpdate::Add(vec![endpoint("10.0.0.2:80", 1)])));
        assert_eq!(addrs(&tracker), ["10.0.0.2:80"]);
        assert!(tracker.apply(EndpointUpdate::Add(vec![endpoint("10.0.0.3:80", 1)])));
        assert_eq!(addrs(&tracker), ["10.0.0.2:80", "10.0.0.3:80"]);
    }
}
