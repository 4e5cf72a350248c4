//! # The identity service's client
//!
//! Job: one `Certify` call, over a connection of its own.
//! May touch: the mesh API. Must not touch: keys, certificates' content. Callers: the certifier.
