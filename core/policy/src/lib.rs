//! # The policy controller
//!
//! Job: tell proxies who may reach their ports (`InboundServerPolicies`) and how their traffic to a
//! destination is routed (`OutboundPolicies`).
//! May touch: watched objects, the gRPC edge. Must not touch: endpoints (`destination`), the API server
//! in writing. Callers: `controller`; `cli` asks which kinds nothing enforces yet.
//!
//! Facts flow one way: watches -> `index` -> views (`watch` channels) -> `serve`.

pub mod args;
pub mod error;
pub mod index;
pub mod metrics;
pub mod serve;
mod unenforced;
mod watches;

pub use args::Config;
pub use index::{inbound::InboundIndex, outbound::OutboundIndex};
pub use unenforced::{UnenforcedKind, unenforced_kinds, unenforced_part};
