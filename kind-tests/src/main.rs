//! # Black-box tests against real Kubernetes
//!
//! Job: brings up two real clusters and runs suites against them by what a user has: kubectl, `mesh` and HTTP; and the
//! sandbox's API suite against a real kube-apiserver, which decides who is right.
//! May touch: child processes, the state folder, what its providers make. Must not touch: other clusters.
//! Callers: CI, a person.

mod api;
mod e2e;
mod kind;
mod kubectl;
mod local;
mod provider;
mod real;
mod run;
mod stage;
mod suites;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use provider::Provider;
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Real clusters, and suites against them.
#[derive(Debug, Parser)]
#[command(name = "mesh-kind-tests")]
struct Cli {
    /// Folder of the clusters' files and logs
    #[arg(long, global = true, default_value = "/var/tmp/mesh-kind-tests")]
    state: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
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
    /// Say what this machine lacks for clusters, and build what they are made of
    Prepare(Where),
    /// Bring up the clusters east and west
    Up(Where),
    /// Take both clusters away, also those of a run that was killed
    Down(Where),
    /// Tell how the clusters do
    Status(Where),
    /// Give both clusters an image archive
    LoadImage {
        #[command(flatten)]
        provider: Where,
        /// A docker or OCI archive
        file: PathBuf,
    },
    /// Print the path of the kubeconfig with the contexts east and west
    Kubeconfig(Where),
    /// Bring the clusters up, run the suites, take the clusters away
    E2e {
        #[command(flatten)]
        provider: Where,
        #[command(flatten)]
        args: e2e::Args,
    },
    /// Give out LoadBalancer addresses on kind
    #[command(hide = true)]
    Balance,
    /// The first process of a cluster's namespaces
    #[command(hide = true)]
    Node {
        cluster: String,
        #[arg(long)]
        kubernetes: PathBuf,
        #[arg(long)]
        servers: bool,
    },
}

#[derive(clap::Args, Clone, Debug)]
struct Where {
    /// Who makes the clusters
    #[arg(long, value_enum, default_value = "local")]
    provider: ProviderName,
    /// On kind: the image of the nodes, such as a private registry's copy of kindest/node; without it kind's own
    #[arg(long, env = "MESH_KIND_IMAGE", value_name = "IMAGE")]
    node_image: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProviderName {
    /// On this machine, as root, without a container engine
    Local,
    /// In containers of docker or podman
    Kind,
}

fn main() -> ExitCode {
    match run_verb(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run_verb(cli: Cli) -> Result<()> {
    let state = std::path::absolute(&cli.state)?;
    match cli.verb {
        Verb::ApiSuite { kubernetes, filter } => api_suite(&kubernetes, filter.as_deref()),
        Verb::Serve { kubernetes } => serve(&kubernetes),
        Verb::Prepare(at) => {
            watch_signals()?;
            let clusters = at.provider(state);
            clusters.check()?;
            clusters.build()
        }
        Verb::Up(at) => {
            watch_signals()?;
            let clusters = at.provider(state);
            clusters.up()?;
            print(&clusters.status()?.join("\n"));
            Ok(())
        }
        Verb::Down(at) => at.provider(state).down(),
        Verb::Status(at) => {
            print(&at.provider(state).status()?.join("\n"));
            Ok(())
        }
        Verb::LoadImage { provider, file } => provider.provider(state).load_image(&file),
        Verb::Kubeconfig(at) => {
            print(&at.provider(state).kubeconfig()?.display().to_string());
            Ok(())
        }
        Verb::E2e { provider, args } => {
            watch_signals()?;
            e2e::run(provider.provider(state.clone()).as_ref(), &state, &args)
        }
        Verb::Balance => kind::Kind::new(state, None).balance(),
        Verb::Node { servers: false, .. } => local::first_process(),
        Verb::Node { cluster, kubernetes, .. } => local::servers(&state, &cluster, kubernetes),
    }
}

impl Where {
    fn provider(self, state: PathBuf) -> Box<dyn Provider> {
        match self.provider {
            ProviderName::Local => Box::new(local::Local::new(state)),
            ProviderName::Kind => Box::new(kind::Kind::new(state, self.node_image)),
        }
    }
}

/// A signal ends what is being waited for, with an error; cleaning up follows from that.
fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                mesh_process::shutdown::signal().await;
                note("stopping");
                run::stop();
            }
        });
    });
    Ok(())
}

/// Tells the person what goes on.
#[expect(clippy::print_stderr, reason = "progress, beside what is asked for")]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Prints what was asked for.
#[expect(clippy::print_stdout, reason = "what the caller asked for")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

fn serve(kubernetes: &Path) -> Result<()> {
    let servers = real::ControlPlane::start(kubernetes)?;
    print(&servers.kubeconfig().display().to_string());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn api_suite(kubernetes: &Path, filter: Option<&str>) -> Result<()> {
    let servers = real::ControlPlane::start(kubernetes)?;
    // Of the whole workspace, and with a program beside it: features and profiles are then those of the other tests, and
    // nothing is compiled again.
    let suite = ["--test", "api_suite", "--bin", "mesh-kind-tests"];
    let status = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--quiet"])
        .args(suite)
        .arg("--")
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
