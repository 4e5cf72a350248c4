//! # A chain of two clusters
//!
//! Client -> west's outbound half -> east's gateway -> the Pod's inbound half -> application, over real
//! sockets and real certificates; discovery is under the test's control.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "chain/faults.rs"]
mod faults;
#[path = "chain/harness.rs"]
mod harness;
#[path = "chain/protocols.rs"]
mod protocols;
#[path = "chain/refusals.rs"]
mod refusals;
#[path = "chain/routes.rs"]
mod routes;
