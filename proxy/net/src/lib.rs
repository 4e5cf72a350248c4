//! # Sockets and names
//!
//! Job: everything that a data plane asks of the operating system: listening, connecting, the original
//! destination of a redirected connection, and DNS.
//! May touch: sockets, socket options, the resolver. Must not touch: TLS, HTTP, policy.
//! Callers: inbound, outbound, the proxy's wiring, control-plane clients, the mirror's probe.

pub mod connect;
pub mod dns;
pub mod listen;
pub mod orig_dst;
pub mod pages;
mod sockopt;

pub use mesh_stack::io;
pub use sockopt::Liveness;
