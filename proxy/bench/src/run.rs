//! # The run
//!
//! Job: every case with every peer in turn, round by round, so that what drifts on the machine hits all
//! alike; memory of idle connections; instructions.
//! May touch: the rig. Must not touch: how a case loads or a peer starts. Callers: `main`.

use crate::{
    cases::{Case, Seen},
    idle, instructions,
    peers::{Options, Peer},
    report::Report,
    rig::{Rig, Unrest},
    tools::Tools,
};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Who carries the traffic, in this order.
    #[arg(long, value_delimiter = ',', default_value = "direct,haproxy,envoy,mesh")]
    pub(crate) peers: Vec<Peer>,
    /// Which loads.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "h1,h2,grpc,lat,tcp,conn,h1-body1k,h1-body16k,h1-body1m,gateway"
    )]
    pub(crate) cases: Vec<Case>,
    /// Numbers of workers a proxy.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) workers: Vec<usize>,
    /// How often.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// How long each case is loaded, after one second of warm-up.
    #[arg(long, default_value_t = 4)]
    pub(crate) seconds: u32,
    /// Numbers of idle connections whose memory is measured.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    pub(crate) idle: Vec<usize>,
    /// Count instructions a request too (valgrind; HAProxy and ours).
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) instructions: bool,
    /// Keep the rig's folder: configurations, logs, callgrind's files.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// One case with one peer in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) workers: usize,
    #[serde(serialize_with = "named")]
    pub(crate) case: Case,
    #[serde(serialize_with = "shown")]
    pub(crate) peer: Peer,
    pub(crate) seen: Seen,
    /// CPU a unit of each proxy, microseconds: client, server, gateway.
    pub(crate) cpu_us: Vec<f64>,
    /// Resident memory of each proxy before any load, KiB.
    pub(crate) rss_idle: Vec<u64>,
    /// And after.
    pub(crate) rss_after: Vec<u64>,
}

/// Runs the whole plan.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    let rig = Rig::up(Tools::ready(&plan.peers)?, Unrest::default())?;
    let mut report = Report::new();
    for round in 0..plan.rounds {
        for (workers, case) in
            plan.workers.iter().flat_map(|w| plan.cases.iter().map(move |c| (*w, *c)))
        {
            for peer in &plan.peers {
                let sample = sample(&rig, round, workers, case, *peer, plan.seconds)?;
                println!("{}", sample.line());
                report.samples.push(sample);
            }
        }
    }
    for (count, peer) in plan.idle.iter().flat_map(|n| plan.peers.iter().map(move |p| (*n, *p))) {
        if peer != Peer::Direct {
            let idle = idle::measure(&rig, peer, count)?;
            println!(
                "{peer}: {} idle connections cost {:.1?} KiB each",
                idle.connections, idle.kib
            );
            report.idle.push(idle);
        }
    }
    if plan.instructions {
        for peer in
            plan.peers.iter().filter(|p| matches!(p, Peer::Haproxy | Peer::Mesh | Peer::Linkerd))
        {
            for case in plan.cases.iter().filter(|c| matches!(c, Case::H1 | Case::H2)) {
                let count = instructions::measure(&rig, *peer, *case)?;
                println!("{peer} {}: {:.0?} instructions a request", case.name(), count.each);
                report.instructions.push(count);
            }
        }
    }
    if !plan.keep {
        rig.done();
    }
    Ok(report)
}

fn sample(
    rig: &Rig,
    round: u32,
    workers: usize,
    case: Case,
    peer: Peer,
    seconds: u32,
) -> Result<Sample> {
    let options = Options { workers, gateway: case == Case::Gateway, under: Vec::new() };
    let running = peer.start(rig, &options)?;
    let rss_idle = running.usage()?.iter().map(|u| u.rss).collect();
    case.run(rig, 1)?;
    let before = running.usage()?;
    let seen = case.run(rig, seconds)?;
    let after = running.usage()?;
    running.stop(Duration::from_secs(2));
    let units = seen.units.max(1.0);
    let cpu_us = before.iter().zip(&after).map(|(b, a)| (a.cpu - b.cpu) * 1e6 / units).collect();
    let rss_after = after.iter().map(|u| u.rss).collect();
    Ok(Sample { round, workers, case, peer, seen, cpu_us, rss_idle, rss_after })
}

impl Sample {
    /// CPU of all proxies.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_us.iter().sum()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.seen.units / self.seen.seconds.max(0.001)
    }

    fn line(&self) -> String {
        let Self { round, workers, case, peer, seen, cpu_us, rss_after, .. } = self;
        let rate = self.rate();
        let failed =
            if seen.failed > 0 { format!(" {} FAILED", seen.failed) } else { String::new() };
        format!(
            "round {round} workers {workers} {:<10} {peer:<8} {rate:>9.0}/s cpu us {cpu_us:.1?} \
             p50 {:.0?} p99 {:.0?} rss {rss_after:?}{failed}",
            case.name(),
            seen.p50_us.unwrap_or_default(),
            seen.p99_us.unwrap_or_default(),
        )
    }
}

fn named<S: serde::Serializer>(case: &Case, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&case.name())
}

pub(crate) fn shown<S: serde::Serializer>(peer: &Peer, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(peer)
}
