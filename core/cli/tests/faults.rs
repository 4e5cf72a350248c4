//! Faults: parts of the east cluster go away and come back under load, and what a caller in west feels of it.
//!
//! The stage is a demo of this binary's own, and its scenes take turns: a fault must not meet another test.
//! Lengths are cut in a debug build, unless `MESH_TEST_FULL` is set; published figures are those of
//! `cargo test --release -p mesh-cli --test faults -- --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "faults/causes.rs"]
mod causes;
#[path = "faults/control.rs"]
mod control;
#[path = "faults/gateway.rs"]
mod gateway;
#[path = "two_clusters/harness.rs"]
#[allow(dead_code, reason = "the other scenes use the rest")]
mod harness;
#[path = "faults/mirror.rs"]
mod mirror;
#[path = "faults/renewal.rs"]
mod renewal;
#[path = "faults/stage.rs"]
mod stage;
