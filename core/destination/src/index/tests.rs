//! # Tests of the index
//!
//! Job: objects in, views out. Callers: `cargo test`.
