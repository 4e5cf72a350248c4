//! # The inbound half over real sockets
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "inbound/access_log.rs"]
mod access_log;
#[path = "inbound/admin.rs"]
mod admin;
#[path = "inbound/faults.rs"]
mod faults;
#[path = "inbound/harness.rs"]
mod harness;
#[path = "inbound/policy.rs"]
mod policy;
#[path = "inbound/ports.rs"]
mod ports;
#[path = "inbound/profiles.rs"]
mod profiles;
