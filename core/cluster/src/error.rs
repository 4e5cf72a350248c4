//! # Errors of cluster access
//!
//! Job: what can go wrong between us and an API server, by whose fault, with the remedy.
//! May touch: kube's errors. Must not touch: logging.
//! Callers: this crate; callers match on it to decide whether to retry.

use std::{future::Future, time::Duration};

/// Why access to a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's kubeconfig cannot be used.
    #[error("the kubeconfig{} cannot be used: {reason}", path.as_ref().map(|p| format!(" {p}")).unwrap_or_default())]
    Kubeconfig {
        /// The file, if it is one.
        path: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither inside of a Pod nor told where the API server is.
    #[error("no API server is known: {0}")]
    NoCluster(String),
    /// The mounted credentials cannot be read.
    #[error("cannot read {path}: {reason}; is the service account token mounted?")]
    Mount {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The API server answered with an error, or did not answer.
    #[error("{}", describe(.0))]
    Api(#[from] kube::Error),
    /// No answer within the deadline.
    #[error("the API server did not answer within {0:?}")]
    Deadline(Duration),
}

impl Error {
    /// The HTTP status, if the API server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// True if the object (or its kind) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// True if somebody else wrote first (wrong resourceVersion), or the object exists already.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// True if the credentials are not known or do not suffice.
    pub fn is_denied(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }

    /// True if the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(status)) => {
                status.code >= 500 || matches!(status.code, 408 | 409 | 429)
            }
            Self::Api(_) | Self::Deadline(_) => true,
            Self::Kubeconfig { .. } | Self::NoCluster(_) | Self::Mount { .. } => false,
        }
    }
}

/// What the client puts as reason where an answer was no `Status` of Kubernetes.
const FOREIGN: &str = "Failed to parse error data";

/// One sentence: the API server's message, or the innermost cause of a transport error.
pub fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        if status.reason == FOREIGN {
            return format!(
                "the server answered {}, but not as a Kubernetes API does; is its address right?",
                status.code
            );
        }
        return format!("the API server answered {}: {}", status.code, status.message);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("the API server cannot be reached ({cause}); is it up, and its address right?")
}

/// Awaits an API call for at most `limit`.
///
/// # Errors
/// The call's error, or [`Error::Deadline`].
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::Deadline(limit)),
    }
}
