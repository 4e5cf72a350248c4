//! # Outbound
//!
//! Job: carry what the application sends to where discovery says: decide the protocol, route, balance,
//! connect over mesh TLS. The page to read is `sidecar`.
//! May touch: accepted connections, discovery through [`Discover`], endpoints. Must not touch: environment,
//! generated API types, inbound traffic.
//! Callers: the proxy's wiring (a sidecar's listener); the gateway (by name, behind its inbound half).

mod backend;
mod config;
mod connect;
mod discover;
mod error;
mod explicit;
mod http;
mod ingress;
mod metrics;
mod plan;
mod profile;
mod quiet;
mod routes;
mod sidecar;
mod target;
mod tcp;

pub use self::{
    config::{Config, Routing},
    connect::Secure,
    discover::{ControlPlane, Discover, Profiled},
    error::{DiscoverError, TcpError},
    http::HttpService,
    sidecar::{Entry, Outbound},
    target::Target,
};
