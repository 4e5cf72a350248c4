//! # Discovery
//!
//! Job: clients of the control plane: endpoints, profiles, policies and certificates. Streams in, `watch`
//! out; what was known last stays while a stream is away.
//! May touch: the mesh API over connections that a caller-given [`channel::Dial`] opens.
//! Must not touch: sockets, DNS, TLS configuration, what is done with the answers.
//! Callers: inbound, outbound, the gateway, the wiring; the mirror's proxy-less parts.

pub mod channel;
pub mod destination;
pub mod identity;
pub mod policy;
mod stream;

pub use stream::{Refusal, RefusalCode, State, StreamLimits, Unanswered, settled};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
