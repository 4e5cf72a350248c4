//! # `identity`
//!
//! Job: the identity service as a process. May touch: flags. Callers: `lib.rs`.

use crate::{
    args::{Line, Read},
    process::{self, Threads},
};
use mesh_identity::{Config, Parts, args::TABLE};
use std::process::ExitCode;

/// Runs it.
///
/// # Errors
/// When it cannot start or fails.
pub(crate) fn run(line: &Line<'_>) -> anyhow::Result<ExitCode> {
    let (common, config) = match line.read(&[TABLE], Config::read)? {
        Read::Done(code) => return Ok(code),
        Read::Run(common, config) => (common, config),
    };
    let Ok(config) = config else {
        tracing::info!("No identity scheme or trust domain is set: nothing to do");
        return Ok(ExitCode::SUCCESS);
    };
    let admin = [config.admin_addr];
    process::run(common, Threads::One, &admin, |process| async move {
        let parts = Parts {
            client: process.client,
            pod: process.pod,
            readiness: process.readiness,
            registry: process.registry,
            drain: process.drain,
            plaintext_from_own: process.plaintext_from_own,
        };
        Ok(mesh_identity::run(config, parts).await?)
    })
}
