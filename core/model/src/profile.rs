//! # Service profiles as a client sees them
//!
//! Job: the answer of `Destination.GetProfile`. Routes, budgets and dst_overrides join with profile
//! routing; the shape has their place.
//! May touch: values. Callers: destination, outbound discovery, the gateway.

use crate::{authority::NameAddr, endpoint::Endpoint, identity::DnsName, meta::Meta};

/// What is known of a destination by name or address (`destination.DestinationProfile`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The Service's name; `None` for endpoint profiles and for undeclared ports.
    pub fqn: Option<DnsName>,
    /// The destination must not be sniffed.
    pub opaque: bool,
    /// Set when the destination is one address.
    pub endpoint: Option<Endpoint>,
    /// Weighted targets; empty means the profile's own name.
    pub targets: Vec<ProfileTarget>,
    /// The Service this profile belongs to.
    pub parent: Option<Meta>,
}

/// One of `dst_overrides`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileTarget {
    /// Where to.
    pub addr: NameAddr,
    /// Relative weight; 0 means unused.
    pub weight: u32,
}
