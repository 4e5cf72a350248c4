//! # Proxy injector
//!
//! Job: give Pods their sidecar, and Services and Pods their opaque ports, at admission; the same rule, as a
//! pure function, is what `mesh inject` applies to files.
//! May touch: the webhook's socket, mounted files, Namespaces and Jobs (reading), Events.
//! Must not touch: the objects themselves; the API server applies the patch.
//! Callers: the controller binary, the CLI.

pub mod annotations;
pub mod args;
mod decision;
mod error;
mod events;
mod metrics;
mod opaque;
mod patch;
mod serve;
mod sidecar;
mod values;
mod webhook;
pub mod workload;

pub use decision::{Mode, SkipReason};
pub use error::InjectError;
pub use patch::{Decision, Injection, Origin, Subject, inject};
pub use serve::run;
