//! # Access to Kubernetes
//!
//! Job: clients, watches that feed indexes, leases, retries, server-side apply, Events.
//! May touch: the Kubernetes API through kube. Must not touch: what objects mean to the mesh.
//! Callers: every controller, the mirror, the CLI.

pub mod apply;
pub mod both;
pub mod client;
mod error;
pub mod events;
pub mod lease;
pub mod requeue;
pub mod views;
pub mod watch;

pub use client::{Kubeconfig, client};
pub use error::{Error, describe, within};
