//! # Bench
//!
//! Job: measure the proxy beside others in network namespaces of its own: `run`, `smoke`, `soak`; and the
//! parts that run inside: `control`, `app`, `hold`.
//! May touch: namespaces, processes and a folder that it makes. Must not touch: anything else on the host.
//! Callers: `just bench`, `just bench-smoke`, `just soak`, CI.

#![expect(clippy::print_stdout, reason = "a tool that reports on its standard output")]

mod app;
mod cases;
mod control;
mod idle;
mod instructions;
mod net;
mod peers;
mod pki;
mod process;
mod report;
mod rig;
mod run;
mod soak;
mod tools;

use anyhow::{Result, ensure};
use cases::Case;
use clap::Parser;
use peers::Peer;
use run::Plan;
use std::{net::SocketAddr, path::PathBuf};

/// Measures mesh-proxy beside HAProxy and Envoy, in one run on one machine.
#[derive(Debug, Parser)]
enum Arguments {
    /// The whole bench: a table, and JSON.
    Run {
        #[command(flatten)]
        plan: Plan,
        /// Where the JSON goes.
        #[arg(long, default_value = "bench.json")]
        json: PathBuf,
    },
    /// Installs what the bench needs and tries whether it can make its networks; says what is in the way.
    Prepare,
    /// Two minutes for CI: fails where the CPU's ratio to HAProxy is far off.
    Smoke,
    /// Half load while everything changes: fails on a failed request or a leak.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
    /// A control plane from a JSON file.
    Control { config: PathBuf, pki: PathBuf, listen: SocketAddr },
    /// The gRPC application behind the proxies.
    App { listen: SocketAddr },
    /// Holds idle connections until its input ends.
    Hold { to: SocketAddr, count: usize },
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Run { plan, json } => {
            end_on_signals()?;
            let mut report = run::run(&plan)?;
            report.finish();
            println!("{}", report.table());
            report.write(&json)?;
            println!("written: {}", json.display());
            report.broken(false).iter().for_each(|line| println!("beyond the floor: {line}"));
            Ok(())
        }
        Arguments::Prepare => {
            end_on_signals()?;
            tools::Tools::ready(&[Peer::Haproxy, Peer::Mesh])?;
            net::Net::up()?.rules(&[], &[])
        }
        Arguments::Smoke => {
            end_on_signals()?;
            smoke()
        }
        Arguments::Soak { seconds } => {
            end_on_signals()?;
            soak::run(seconds)
        }
        Arguments::Control { config, pki, listen } => {
            runtime()?.block_on(control::serve(&config, &pki, listen))
        }
        Arguments::App { listen } => runtime()?.block_on(app::serve(listen)),
        Arguments::Hold { to, count } => idle::hold(to, count),
    }
}

fn smoke() -> Result<()> {
    let plan = Plan {
        peers: vec![Peer::Haproxy, Peer::Mesh],
        cases: vec![Case::H1, Case::H2, Case::Tcp, Case::Conn],
        workers: vec![1],
        rounds: 3,
        seconds: 1,
        idle: Vec::new(),
        instructions: false,
        keep: false,
    };
    let measure = || -> Result<String> {
        let mut report = run::run(&plan)?;
        report.finish();
        println!("{}", report.table());
        Ok(report.broken(true).join("\n"))
    };
    let broken = measure()?;
    if broken.is_empty() {
        return Ok(());
    }
    println!("{broken}\nonce more, as the machine may have been busy with something else");
    let again = measure()?;
    ensure!(again.is_empty(), "{again}");
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Ctrl-C and TERM end the bench and all that it has made.
fn end_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = runtime()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            process::kill_all();
            net::remove_all();
            let _ = std::fs::remove_dir_all(rig::folder());
            std::process::exit(130);
        });
    });
    Ok(())
}
