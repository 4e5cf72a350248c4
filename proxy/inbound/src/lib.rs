//! # Inbound
//!
//! Job: take connections that are meant for the application of this Pod, find out what they speak and who
//! sends them, obey the policy of the port, and forward them.
//! May touch: accepted connections, connections to the application. Must not touch: discovery of other
//! workloads, but for metrics (`profiles.rs`); what a gateway does with named connections is behind [`gateway::Gateway`].
//! Callers: the wiring of the proxy; the gateway plugs in.
//!
//! `sidecar.rs` is the page to read first.

pub mod access_log;
mod admin;
pub mod config;
mod connection;
mod direct;
mod error;
pub mod gateway;
mod http;
pub mod policy;
mod profiles;
mod rate;
mod sidecar;
mod tcp;
mod tls;

pub use self::{
    admin::ADMIN_DETECT_TIMEOUT,
    config::Config,
    error::{DirectRefusal, Error},
    policy::{Defaults, Policies, PolicySource},
    profiles::{ProfileSource, Profiles},
    sidecar::{Inbound, Shared},
};
