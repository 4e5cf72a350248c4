//! # The destination service
//!
//! Job: tell proxies where a Service's endpoints are, how to reach each, and how to treat a
//! destination at all (`Destination.Get`, `Destination.GetProfile`).
//! May touch: watched objects, the gRPC edge. Must not touch: policy, the API server in writing.
//! Callers: `controller`.
//!
//! Facts flow one way: watches -> `index` -> views (`watch` channels) -> `serve`.

pub mod args;
mod endpoint;
pub mod error;
pub mod index;
pub mod metrics;
mod profile;
pub mod serve;
pub mod view;
mod watches;

pub use args::Config;
pub use index::DestinationIndex;
pub use serve::Destination;
