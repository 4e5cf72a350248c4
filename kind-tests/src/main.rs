//! # Black-box tests against real Kubernetes
//!
//! Job: starts real servers and runs suites against them. So far: the API suite of the sandbox, run
//! against a real kube-apiserver, which decides who is right.
//! May touch: child processes, a temporary folder, loopback. Must not touch: other clusters.
//! Callers: CI, a person.

mod real;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::{path::PathBuf, process::Command};

/// Suites against real Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "mesh-kind-tests")]
enum Cli {
    /// Run the sandbox's API suite against a real kube-apiserver
    ApiSuite {
        /// The binary that kind-tests/k8s/build.sh prints
        #[arg(long)]
        kubernetes: PathBuf,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Keep a real control plane up until standard input ends; prints its kubeconfig's path
    Serve {
        /// The binary that kind-tests/k8s/build.sh prints
        #[arg(long)]
        kubernetes: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::ApiSuite { kubernetes, filter } => api_suite(&kubernetes, filter.as_deref()),
        Cli::Serve { kubernetes } => serve(&kubernetes),
    }
}

#[expect(clippy::print_stdout, reason = "the path is what the caller asked for")]
fn serve(kubernetes: &std::path::Path) -> Result<()> {
    let servers = real::ControlPlane::start(kubernetes)?;
    println!("{}", servers.kubeconfig().display());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn api_suite(kubernetes: &std::path::Path, filter: Option<&str>) -> Result<()> {
    let servers = real::ControlPlane::start(kubernetes)?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "-p", "mesh-sandbox", "--test", "api", "--"])
        .args(filter)
        .env("MESH_API_SUITE_KUBECONFIG", servers.kubeconfig())
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "the API suite fails on the real kube-apiserver; its logs: {}",
        servers.keep_logs()
    );
    Ok(())
}
