//! # Kubernetes vocabulary
//!
//! Job: the objects, labels, annotations and names that the mesh reads and writes in a cluster.
//! May touch: object types and text. Must not touch: sockets, clocks, files; nothing here talks.
//! Callers: every room that sees Kubernetes objects: control plane, mirror, link, CLI.

pub mod annotations;
pub mod labels;
pub mod link;
pub mod names;
pub mod policy;
pub mod selector;
