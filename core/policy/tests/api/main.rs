//! # The policy API as a proxy sees it
//!
//! Job: one test program for both services. Callers: `cargo test`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod inbound_api;
mod outbound_api;
mod rig;
