//! Two clusters, one mesh: the `mesh` binary brings them up once, and each test plays a scene on them.
//!
//! Times are printed and only loosely bounded here, since this is a debug build on a busy machine; the
//! same scenes in a release build are what published figures are taken from:
//! `cargo test --release -p mesh-cli --test two_clusters -- --nocapture --test-threads 1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "two_clusters/export.rs"]
mod export;
#[path = "two_clusters/harness.rs"]
#[allow(dead_code, reason = "the scenes of faults use the rest")]
mod harness;
#[path = "two_clusters/installation.rs"]
mod installation;
#[path = "two_clusters/look.rs"]
mod look;
#[path = "two_clusters/protocols.rs"]
mod protocols;
