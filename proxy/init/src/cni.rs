//! # linkerd-cni
//!
//! Job: the plugin that a container runtime calls for each new Pod, after those that make its network. It
//! gives back what they have said, and sets redirect rules if the Pod has a proxy.
//! May touch: stdin, stdout, the Pod's network namespace. Must not touch: the API server by itself (see
//! `api`). Callers: `lib.rs`.

mod api;
mod config;
mod pod;

use crate::{error::InitError, setup};
use config::{Config, ConfigError, PodName};
use mesh_process::settings::env;
use pod::Decision;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Why a Pod's network could not be finished. The runtime tells it in the Pod's events and tries again.
#[derive(Debug, thiserror::Error)]
enum CniError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("CNI_COMMAND={0:?} is not known; expected ADD, CHECK, DEL, GC, STATUS or VERSION")]
    Command(String),
    #[error("{0} must be set by the container runtime")]
    Variable(&'static str),
    #[error("the network configuration cannot be read from stdin: {0}")]
    Stdin(#[source] std::io::Error),
    #[error("{0}")]
    Api(#[from] api::ApiError),
    #[error("{0}")]
    Rules(#[from] InitError),
}

impl CniError {
    /// Codes below 100 are the specification's.
    fn code(&self) -> u32 {
        match self {
            Self::Config(_) => 7,
            Self::Command(_) | Self::Variable(_) => 4,
            Self::Stdin(_) => 5,
            Self::Api(_) => 11,
            Self::Rules(_) => 100,
        }
    }
}

/// Runs it: one command, told by variables and stdin. Everything that it prints is JSON for the runtime.
pub(crate) fn run() -> ExitCode {
    let command = env("CNI_COMMAND").unwrap_or_default();
    let mut input = Vec::new();
    let read = std::io::stdin().take(MAX_INPUT).read_to_end(&mut input);
    let done = read.map_err(CniError::Stdin).and_then(|_| call(&command, &input));
    match done {
        Ok(result) => say(result.as_ref(), ExitCode::SUCCESS),
        Err(error) => {
            let version = Config::version(&input);
            let said =
                json!({ "cniVersion": version, "code": error.code(), "msg": error.to_string() });
            say(Some(&said), ExitCode::FAILURE)
        }
    }
}

fn say(value: Option<&Value>, code: ExitCode) -> ExitCode {
    if let Some(value) = value {
        // A runtime that closes the pipe has given up on the answer.
        let _ = writeln!(std::io::stdout(), "{value}");
    }
    code
}

fn call(command: &str, input: &[u8]) -> Result<Option<Value>, CniError> {
    match command {
        "VERSION" => Ok(Some(json!({ "cniVersion": VERSIONS[0], "supportedVersions": VERSIONS }))),
        "ADD" => add(&Config::parse(input)?).map(Some),
        // The rules live and die with the Pod's namespace.
        "CHECK" | "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(CniError::Command(other.to_owned())),
    }
}

fn add(config: &Config) -> Result<Value, CniError> {
    log_to_stderr(&config.log_level);
    let arguments = env("CNI_ARGS").unwrap_or_default();
    let Some(name) = PodName::of(&arguments) else {
        tracing::debug!("Not a Pod of Kubernetes");
        return Ok(config.result());
    };
    let netns = PathBuf::from(env("CNI_NETNS").ok_or(CniError::Variable("CNI_NETNS"))?);
    match decide(config, &name)? {
        Decision::Pass(reason) => tracing::info!(pod = %name, reason, "No redirect rules"),
        Decision::Redirect(redirect) => {
            if config.linkerd.simulate {
                tracing::info!(pod = %name, "Simulated:\n{}", setup::simulate(&redirect));
            } else {
                setup::apply(&redirect, Some(Path::new(&netns)))?;
                tracing::info!(pod = %name, "Redirect rules are set");
            }
        }
    }
    Ok(config.result())
}

/// Asks for the Pod, and only if that has a proxy for what else counts.
fn decide(config: &Config, name: &PodName) -> Result<Decision, CniError> {
    let api = api::Api::new(&config.kubernetes.kubeconfig)?;
    let found = api.get(&format!("/api/v1/namespaces/{}/pods/{}", name.namespace, name.name))?;
    if let Some(reason) = pod::passes(&found) {
        return Ok(Decision::Pass(reason));
    }
    let namespace = api.get(&format!("/api/v1/namespaces/{}", name.namespace))?;
    let ports = match pod::is_control_plane(&found) {
        // Without it there are still the usual ports.
        true => api.get("/api/v1/namespaces/default/services/kubernetes").unwrap_or_default(),
        false => Value::Null,
    };
    let found = pod::Found { pod: &found, namespace: &namespace, api: &ports };
    Ok(Decision::Redirect(pod::redirect(&config.linkerd, &found)?))
}

/// Stdout is for the runtime.
fn log_to_stderr(level: &str) {
    let filter = mesh_process::logs::from_go_level(level);
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_default();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // Fails only if something else logs already.
    let _ = lines.with_writer(std::io::stderr).try_init();
}

/// Newest first.
const VERSIONS: [&str; 7] = ["1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.3.0", "0.2.0", "0.1.0"];
/// More than any network configuration.
const MAX_INPUT: u64 = 1 << 20;
