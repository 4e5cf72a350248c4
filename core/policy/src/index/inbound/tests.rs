//! # Tests of the inbound index
//!
//! Job: objects in, policies out. Callers: `cargo test`.
