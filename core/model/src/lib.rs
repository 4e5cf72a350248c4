//! # Values and rules of the mesh
//!
//! Job: the nouns every other room speaks in (identities, authorities, endpoints, routes,
//! policies) and the rules that need nothing but those nouns.
//! May touch: the standard library and small value crates.
//! Must not touch: I/O, clocks, async, Kubernetes objects, generated protobuf types.
//! Callers: everyone; `wire` translates to and from the mesh API, `k8s` to and from objects.

pub mod authority;
pub mod balance;
pub mod endpoint;
pub mod filter;
pub mod identity;
pub mod inbound;
pub mod meta;
pub mod outbound;
pub mod ports;
pub mod profile;
pub mod response;
pub mod route;
pub mod selector;
pub mod transport;
