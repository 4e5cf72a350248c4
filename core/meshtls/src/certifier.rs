//! # The certifier
//!
//! Job: get the first certificate soon, renew it at 70 % of what remains, keep the old one on failure.
//! May touch: the token file, time. Must not touch: gRPC. Callers: binaries spawn [`run`].

mod state;

use crate::{
    certify::{Certify, CertifyError, CertifyRequest},
    credentials::Credentials,
    error::InstallError,
};
use state::State;
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, sleep, timeout};

/// Bounds of renewal.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    /// Shortest wait before a renewal, unless the certificate ends sooner.
    pub min_refresh: Duration,
    /// Longest wait.
    pub max_refresh: Duration,
    /// Longest single attempt.
    pub attempt: Duration,
}

/// Where the service account token is; it is read again for each attempt.
#[derive(Clone, Debug)]
pub enum Token {
    /// In a projected volume.
    File(PathBuf),
    /// None is needed: the identity service signs for itself.
    None,
}

/// Told of each attempt; `()` ignores them.
pub trait Observe: Send + Sync {
    /// A certificate was installed.
    fn refreshed(&self, expiry: SystemTime, at: SystemTime);
    /// An attempt failed.
    fn failed(&self);
}

/// What the certifier takes as the time. [`Clock::tokio`] follows tokio's clock, which tests can pause.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Option<(SystemTime, Instant)>);

/// Why one attempt brought no certificate.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Certify(#[from] CertifyError),
    #[error("the answer was refused: {0}")]
    Install(#[from] InstallError),
    #[error("the answer has expired already")]
    Expired,
}

impl Default for Renewal {
    /// 10 s to 24 h; 5 s an attempt.
    fn default() -> Self {
        Self {
            min_refresh: Duration::from_secs(10),
            max_refresh: Duration::from_secs(24 * 3600),
            attempt: Duration::from_secs(5),
        }
    }
}

impl Observe for () {
    fn refreshed(&self, _expiry: SystemTime, _at: SystemTime) {}
    fn failed(&self) {}
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// Starts at the system's time and runs with tokio's.
    pub fn tokio() -> Self {
        Self(Some((SystemTime::now(), Instant::now())))
    }

    /// Now.
    pub fn now(&self) -> SystemTime {
        match self.0 {
            None => SystemTime::now(),
            Some((system, start)) => system + start.elapsed(),
        }
    }
}

/// Keeps `credentials` certified for ever. Credentials that were imported before the start are renewed
/// when they are due, not at once.
pub async fn run<C: Certify>(
    credentials: Credentials,
    certify: C,
    token: Token,
    renewal: Renewal,
    clock: Clock,
    observer: impl Observe,
) {
    let mut state = State::start(credentials.expiry());
    let mut wait = match credentials.expiry() {
        Some(_) => state.wait(&renewal, clock.now()),
        None => Duration::ZERO,
    };
    loop {
        sleep(wait).await;
        match attempt(&credentials, &certify, &token, &renewal, &clock).await {
            Ok(expiry) => {
                tracing::debug!(identity = %credentials.local(), "Certified");
                observer.refreshed(expiry, clock.now());
                state = State::Certified { expiry };
            }
            Err(error) => {
                observer.failed();
                state = state.failed();
                tracing::warn!(identity = %credentials.local(), %error, "Could not be certified");
            }
        }
        wait = state.wait(&renewal, clock.now());
    }
}

async fn attempt<C: Certify>(
    credentials: &Credentials,
    certify: &C,
    token: &Token,
    renewal: &Renewal,
    clock: &Clock,
) -> Result<SystemTime, AttemptError> {
    let request = CertifyRequest {
        identity: credentials.local().clone(),
        token: token.read()?,
        csr: credentials.csr(),
    };
    let issued = timeout(renewal.attempt, certify.certify(request))
        .await
        .map_err(|_| CertifyError::Timeout)??;
    let now = clock.now();
    if issued.valid_until <= now {
        return Err(AttemptError::Expired);
    }
    let proof = credentials.install(&issued.leaf, &issued.intermediates, now)?;
    Ok(proof.not_after().min(issued.valid_until))
}

impl Token {
    fn read(&self) -> Result<Vec<u8>, CertifyError> {
        let Self::File(path) = self else { return Ok(Vec::new()) };
        let fail =
            |reason: String| CertifyError::Token { path: path.display().to_string(), reason };
        // A token is a few kilobytes on a memory volume: read in place rather than on another thread.
        match std::fs::read(path) {
            Ok(token) if token.is_empty() => Err(fail("it is empty".into())),
            Ok(token) => Ok(token),
            Err(error) => Err(fail(error.to_string())),
        }
    }
}
