//! # Traffic through outbound
//!
//! Job: each protocol from an application, through an outbound half, to servers on loopback, with
//! discovery played by the test.
//! Must not touch: anything but loopback.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "traffic/harness.rs"]
mod harness;

#[path = "traffic/balancing.rs"]
mod balancing;
#[path = "traffic/breaking.rs"]
mod breaking;
#[path = "traffic/connections.rs"]
mod connections;
#[path = "traffic/explicit.rs"]
mod explicit;
#[path = "traffic/faults.rs"]
mod faults;
#[path = "traffic/http1.rs"]
mod http1;
#[path = "traffic/http2.rs"]
mod http2;
#[path = "traffic/ingress.rs"]
mod ingress;
#[path = "traffic/limits.rs"]
mod limits;
#[path = "traffic/lookups.rs"]
mod lookups;
#[path = "traffic/mesh_tls.rs"]
mod mesh_tls;
#[path = "traffic/panics.rs"]
mod panics;
#[path = "traffic/profiles.rs"]
mod profiles;
#[path = "traffic/routes.rs"]
mod routes;
#[path = "traffic/slow.rs"]
mod slow;
#[path = "traffic/tcp.rs"]
mod tcp;
