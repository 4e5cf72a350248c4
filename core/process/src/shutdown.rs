//! # Signals
//!
//! Job: wait for the operator or Kubernetes to end the process.
//! May touch: SIGTERM, SIGINT. Must not touch: anything else. Callers: binaries.

use std::{fmt, io};
use tokio::signal::unix::{SignalKind, signal as listen};

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM, as kubelet sends it.
    Terminate,
    /// SIGINT, as a terminal sends it.
    Interrupt,
}

/// Handlers that are already installed, so that no signal between start and wait is lost.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub async fn recv(&mut self) -> Cause {
        tokio::select! {
            _ = self.terminate.recv() => Cause::Terminate,
            _ = self.interrupt.recv() => Cause::Interrupt,
        }
    }
}

/// Waits for SIGTERM or SIGINT. Where handlers cannot be installed it logs why and waits for ever, so
/// that the default action of the signals still ends the process.
pub async fn signal() -> Cause {
    match Signals::install() {
        Ok(mut signals) => signals.recv().await,
        Err(error) => {
            tracing::warn!(%error, "Signal handlers could not be installed");
            std::future::pending().await
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}
