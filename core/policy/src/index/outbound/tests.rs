//! # Tests of the outbound index
//!
//! Job: objects in, policies out. Callers: `cargo test`.
