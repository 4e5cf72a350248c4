//! # The skeleton of a binary
//!
//! Job: what every program of the mesh needs around its own work: where it runs, its settings, logs,
//! metrics, the admin server, readiness, drain, signals, supervised tasks.
//! May touch: the process (signals, stdout, panics), sockets of the admin server.
//! Must not touch: Kubernetes, the mesh API. Callers: every binary and the rooms that bind sockets.

pub mod admin;
pub mod context;
pub mod drain;
pub mod http_server;
pub mod logs;
pub mod metrics;
mod procfs;
pub mod ready;
pub mod settings;
pub mod shutdown;
pub mod tasks;
