//! # The mesh API on the wire
//!
//! Job: translate between the model's values and the messages of Linkerd's proxy API, both ways, one
//! file a service; the transport header; the tokens by which a proxy says who it is.
//! May touch: generated message types, bytes, JSON. Must not touch: sockets, tasks, Kubernetes.
//! Callers: the control plane's `serve.rs` files, `discover`, the proxy's direct transport.

pub mod context_token;
pub mod destination;
mod error;
mod filter;
pub mod inbound;
mod meta;
pub mod outbound;
pub mod profile;
mod route;
pub mod transport_header;
pub mod workload;

pub use error::Invalid;

#[cfg(test)]
mod strategies;
