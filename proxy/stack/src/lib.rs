//! # Parts of a stack
//!
//! Job: the protocol-blind parts that proxies are built from: idle cache, backoff, fail-fast gate,
//! bounded queue, pool, balancing over a changing set, weighted choice, supervised tasks, byte streams.
//! May touch: the runtime's clock, timers and I/O traits. Must not touch: sockets, HTTP, TLS, discovery.
//! Callers: `net`, `http`, `discover`, `inbound`, `outbound`, the gateway.

pub mod backoff;
pub mod balance;
pub mod budget;
pub mod cache;
pub mod ewma;
pub mod gate;
pub mod io;
pub mod meter;
pub mod p2c;
pub mod pool;
pub mod queue;
pub mod tried;
pub mod weighted;
