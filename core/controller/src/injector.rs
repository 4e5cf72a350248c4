//! # `proxy-injector`
//!
//! Job: the admission webhook as a process. May touch: flags. Callers: `lib.rs`.

use crate::{
    args::{Line, Read},
    process::{self, Threads},
};
use mesh_injector::args::Config;
use mesh_process::settings::{Setting, form};
use std::process::ExitCode;

const ADDR: Setting = Setting::new("addr", "where the webhook listens").default(":8443");
const METRICS_ADDR: Setting =
    Setting::new("metrics-addr", "where the admin server listens").default(":9995");
const NAMESPACE: Setting =
    Setting::new("linkerd-namespace", "namespace of the control plane").default("linkerd");
const TABLE: &[Setting] = &[ADDR, METRICS_ADDR, NAMESPACE];

/// Runs it.
///
/// # Errors
/// When it cannot start or fails.
pub(crate) fn run(line: &Line<'_>) -> anyhow::Result<ExitCode> {
    let read = line.read(&[TABLE], |reader| {
        let addr = reader.value(&ADDR, form::GO_LISTEN);
        let admin = reader.value(&METRICS_ADDR, form::GO_LISTEN);
        let namespace = reader.value(&NAMESPACE, form::NON_EMPTY);
        Ok((addr?, admin?, namespace?))
    })?;
    let (common, (addr, admin, namespace)) = match read {
        Read::Done(code) => return Ok(code),
        Read::Run(common, flags) => (common, flags),
    };
    process::run(common, Threads::One, &[admin], |process| async move {
        let config = Config { addr, ..Config::new(&namespace, process.pod) };
        let (registry, readiness) = (&process.registry, &process.readiness);
        Ok(mesh_injector::run(config, process.client, registry, readiness, process.drain).await?)
    })
}
