//! # The gateway
//!
//! Job: carry connections of peers in other clusters to Services of this one: who calls, is it exported,
//! is it a loop; then onward through the outbound half. Keeps its last good view, on disk too.
//! May touch: requests between inbound and outbound, one snapshot file. Must not touch: sockets, TLS,
//! Kubernetes. Callers: the wiring plugs it into the inbound half.
//!
//! `forward.rs` is the page to read first.

mod forward;
mod forwarded;
mod metrics;
mod refusal;
mod remember;
mod snapshot;
mod view;

pub use self::{
    forward::{Config, Gateway, PATIENCE, Route},
    metrics::GatewayMetrics,
    refusal::Refusal,
    remember::{RememberingDiscovery, RememberingPolicies},
    snapshot::{SnapshotError, load, save},
    view::{View, keep_saved},
};
