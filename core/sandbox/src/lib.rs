//! # Sandbox
//!
//! Job: an embedded Kubernetes on loopback, for tests, demos and first steps: an API server, controllers, a
//! node agent that runs Pods as child processes, cluster DNS, and the processes that carry them.
//! May touch: loopback sockets, its data folder, child processes it started.
//! Must not touch: which programs exist; the caller hands in a `Programs` table.
//! Callers: tests, and `core/cli`.

pub mod api;
pub mod cluster;
pub mod controllers;
pub mod dns;
mod feed;
pub mod node;
mod schema;
mod store;
