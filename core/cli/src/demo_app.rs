//! # The demo image's program
//!
//! Job: `mesh-demo app` and `mesh-demo load`, the flags of the demo app and the load client.
//! May touch: the environment (where the Pod runs), sockets through `mesh-demo`.
//! Must not touch: clusters. Callers: `lib.rs`, when this program is called `mesh-demo`.

use crate::output;
use anyhow::{Context, Result};
use clap::Parser;
use mesh_demo::{
    app::{App, Config},
    client::{Protocol, Target},
    load::{self, Pace},
};
use mesh_process::context::PodContext;
use std::{ffi::OsString, net::SocketAddr, process::ExitCode, time::Duration};

/// The demo app and the load client.
#[derive(Debug, Parser)]
#[command(name = "mesh-demo")]
enum Cli {
    /// Answer requests with who answered and what was told of the caller
    App(AppArgs),
    /// Send requests and count
    Load(LoadArgs),
}

#[derive(Debug, clap::Args)]
struct AppArgs {
    /// Cluster name to answer with
    #[arg(long)]
    cluster: String,
    /// Pod name to answer with
    #[arg(long)]
    pod: String,
    /// Address for HTTP/1, HTTP/2, gRPC and WebSocket
    #[arg(long, default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Address for TCP echo
    #[arg(long, default_value = "0.0.0.0:9090")]
    tcp: SocketAddr,
}

#[derive(Debug, clap::Args)]
struct LoadArgs {
    /// URL to ask, e.g. http://echo-east.demo/
    url: http::Uri,
    /// Explicit proxy, e.g. 127.1.1.7:4140
    #[arg(long)]
    proxy: Option<SocketAddr>,
    /// Speak HTTP/2
    #[arg(long)]
    http2: bool,
    /// Requests at once
    #[arg(long, default_value_t = 16)]
    workers: usize,
    /// Requests in all (closed loop)
    #[arg(long, default_value_t = 10_000, conflicts_with = "rate")]
    requests: usize,
    /// Requests a second (open loop)
    #[arg(long)]
    rate: Option<u32>,
    /// Seconds to go on (open loop)
    #[arg(long, default_value_t = 10, requires = "rate")]
    seconds: u64,
}

/// Runs the program; exit code 1 on failure, and for `load` also if any request failed.
pub(crate) fn run(argv: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => return crate::usage(&error),
    };
    let done = match cli {
        Cli::App(args) => serve(args),
        Cli::Load(args) => send(args),
    };
    match done {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    }
}

fn serve(args: AppArgs) -> Result<ExitCode> {
    let pod = PodContext::from_lookup(|name| std::env::var(name).ok())?;
    let config = Config {
        cluster: args.cluster,
        pod: args.pod,
        http: pod.bind(args.http),
        tcp: pod.bind(args.tcp),
    };
    // One thread is plenty for the demo, and keeps the Pod small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::start(config).await?;
        output::note(format!("serving HTTP on {}, TCP echo on {}", app.http, app.tcp));
        mesh_process::shutdown::signal().await;
        app.stop();
        Ok(ExitCode::SUCCESS)
    })
}

fn send(args: LoadArgs) -> Result<ExitCode> {
    let protocol = if args.http2 { Protocol::Http2 } else { Protocol::Http1 };
    let target = Target {
        uri: args.url,
        proxy: args.proxy,
        protocol,
        source: None,
        timeout: Duration::from_secs(10),
    };
    let pace = match args.rate {
        Some(rate) => {
            Pace::Open { workers: args.workers, rate, length: Duration::from_secs(args.seconds) }
        }
        None => Pace::Closed { workers: args.workers, requests: args.requests },
    };
    let report = crate::block_on(async { Ok(load::run(&target, pace).await) }).context("load")?;
    output::print(&format!("{report}\n"))?;
    Ok(if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
