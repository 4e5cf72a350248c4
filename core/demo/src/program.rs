//! # The demo image's program
//!
//! Job: `mesh-demo app`, `load`, and the questions of `ask`: their flags.
//! May touch: the environment through `process` (where the Pod runs), stdout and stderr.
//! Must not touch: clusters. Callers: `main.rs`, and `core/cli` when it is called `mesh-demo`.

use crate::{
    app::{App, Config},
    ask,
    client::{Protocol, Target},
    load::{self, Pace},
};
use anyhow::Result;
use clap::Parser;
use mesh_process::{context::PodContext, settings};
use std::{
    ffi::OsString,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

/// The demo app and the load client.
#[derive(Debug, Parser)]
#[command(name = "mesh-demo")]
enum Cli {
    /// Answer requests with who answered and what was told of the caller
    App(AppArgs),
    /// Send requests and count
    Load(LoadArgs),
    /// Ask once and print the answer
    Get(ask::Get),
    /// Ask again and again and print when the answer changes
    Poll(ask::Poll),
    /// Speak every protocol of the app with a host
    Protocols(ask::Protocols),
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
    /// Seconds to go on serving after the signal to end: until all proxies know that this Pod goes
    #[arg(long, default_value_t = 0)]
    linger: u64,
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
    /// A connection of its own for each request (closed loop)
    #[arg(long, conflicts_with = "rate")]
    fresh: bool,
    /// Requests a second (open loop)
    #[arg(long)]
    rate: Option<u32>,
    /// Seconds to go on (open loop)
    #[arg(long, default_value_t = 10, requires = "rate")]
    seconds: u64,
}

/// Runs the program; exit code 1 on failure, and for `load` also if any request failed.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout or stderr leaves nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let done = match cli {
        Cli::App(args) => serve(args),
        Cli::Load(args) => send(args),
        Cli::Get(args) => finish(args.run()),
        Cli::Poll(args) => finish(args.run()),
        Cli::Protocols(args) => finish(args.run()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(args: AppArgs) -> Result<ExitCode> {
    let pod = PodContext::from_lookup(settings::env)?;
    let config = Config {
        cluster: args.cluster,
        pod: args.pod,
        http: pod.bind(args.http),
        tcp: pod.bind(args.tcp),
    };
    // One thread is plenty for the demo, and keeps the Pod small.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let app = App::start(config).await?;
        say(&format!("serving HTTP on {}, TCP echo on {}", app.http, app.tcp));
        mesh_process::shutdown::signal().await;
        tokio::time::sleep(Duration::from_secs(args.linger)).await;
        app.stop();
        Ok(ExitCode::SUCCESS)
    })
}

fn finish(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)?;
    Ok(ExitCode::SUCCESS)
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
        None => Pace::Closed { workers: args.workers, requests: args.requests, fresh: args.fresh },
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(load::run(&target, pace));
    writeln!(io::stdout(), "{report}")?;
    Ok(if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(line: &str) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}
