//! # Errors of the mirror
//!
//! Job: why the process cannot start. Which exit code that makes, `lib.rs` says.
//! May touch: the errors below. Must not touch: logging. Callers: `lib.rs`.

/// Why the mirror ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Bad flags or variables.
    #[error("{0}")]
    Settings(#[from] mesh_process::settings::BadSettings),
    /// Bad variables of the Pod context.
    #[error("{0}")]
    Context(#[from] mesh_process::context::InvalidContext),
    /// The local cluster cannot be reached at all.
    #[error("cannot reach the local cluster: {0}")]
    Cluster(#[from] mesh_cluster::Error),
    /// The admin port cannot be bound.
    #[error("{0}")]
    Admin(#[from] mesh_process::admin::AdminError),
    /// The runtime or a registry failed, which is our fault.
    #[error("cannot start: {0}")]
    Start(String),
}
