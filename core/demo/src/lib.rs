//! # The demo app and the load client
//!
//! Job: an application to put behind the mesh that tells who answered and what it was told of the
//! caller, and a client that sends it traffic and counts. The demo, the tests and the bench use both.
//! May touch: plain sockets. Must not touch: Kubernetes, mesh TLS; `program` alone reads flags.
//! Callers: `core/cli` (as the image `mesh/demo`, and in `mesh demo`), tests.

pub mod app;
mod ask;
pub mod client;
pub mod dns;
pub mod load;
pub mod poll;
pub mod program;
pub mod protocols;
