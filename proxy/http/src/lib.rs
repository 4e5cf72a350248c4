//! # HTTP
//!
//! Job: HTTP/1 and HTTP/2 as a proxy needs them: detection, servers, endpoint clients, balancing,
//! upgrades, carrying HTTP/1 over HTTP/2 between proxies, and errors as responses.
//! May touch: byte streams handed in, timers. Must not touch: sockets, TLS, discovery, policy.
//! Callers: inbound, outbound, the gateway, admin, control-plane clients.

mod accrual;
pub mod balance;
pub mod body;
pub mod classify;
pub mod client;
pub mod detect;
mod driven;
pub mod error;
pub mod headers;
pub mod normalize;
pub mod observe;
pub mod orig_proto;
mod ping;
pub mod respond;
pub mod retry;
pub mod server;
pub mod timeouts;
pub mod upgrade;

pub use self::{
    balance::{BalanceParams, Balancer},
    body::Body,
    error::Error,
    server::{ServerParams, Service, serve},
};
