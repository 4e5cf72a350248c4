//! # Errors of the injector
//!
//! Job: what can go wrong, by whose fault. May touch: nothing. Callers: the whole crate.

use std::path::PathBuf;

/// Why there is no answer, or only a refusal.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// A mounted file cannot be read.
    #[error("cannot read {path}: {source}; is the ConfigMap or Secret mounted?")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The installation's values are not YAML.
    #[error("the values of linkerd-config cannot be used: {0}")]
    Values(String),
    /// The sidecar cannot be rendered with these values.
    #[error(transparent)]
    Render(#[from] mesh_charts::RenderError),
    /// The certificate cannot be used.
    #[error("the webhook's certificate cannot be used: {0}")]
    Certificate(String),
    /// A request that is not an AdmissionReview.
    #[error("not an AdmissionReview: {0}")]
    Review(String),
    /// The port cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A metric family cannot be registered.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}
