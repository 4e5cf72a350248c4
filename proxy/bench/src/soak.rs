//! # Soak
//!
//! Job: half load for minutes while endpoints come and go, policies change and certificates are short;
//! fail on a failed request, on memory that grows, on tasks that stay.
//! May touch: the rig. Callers: `main`.

use crate::{
    cases::{self, Case, Seen},
    net::addr,
    peers::{ADMIN, Options, Peer, Role, Running},
    process::{As, command, output},
    rig::{Rig, Unrest},
    tools::Tools,
};
use anyhow::{Context, Result, ensure};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// What drives the proxies mad: endpoints every 100 ms, policies every second, certificates of 30 s.
const UNREST: Unrest = Unrest { churn_ms: 100, policy_ms: 1_000, leaf_seconds: Some(30) };
/// How much memory may grow from the end of the first fifth to the end.
const GROWTH: f64 = 1.15;
/// Tasks that may be left over: those that wait for an idle cache entry to leave.
const TASKS: f64 = 64.0;
/// Time for connections and caches to leave when the load has ended.
const CALM: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);

/// Resident memory, KiB, and tasks of each proxy at one moment.
struct Sample {
    rss: Vec<u64>,
    /// `None`: the proxy does not tell.
    tasks: Vec<Option<f64>>,
}

/// Runs it; an error tells what leaked or failed.
pub(crate) fn run(seconds: u32) -> Result<()> {
    let rig = Rig::up(Tools::ready(&[Peer::Mesh])?, UNREST)?;
    let options = Options { workers: 1, gateway: false, under: Vec::new() };
    let running = Peer::Mesh.start(&rig, &options)?;
    let full: Vec<f64> = [Case::H1, Case::H2]
        .into_iter()
        .map(|case| case.run(&rig, 3).map(|seen| seen.units / seen.seconds))
        .collect::<Result<_>>()?;
    // Two loads at once, each a quarter of what it reaches alone: half of the proxies' time.
    let rates = [(full[0] / 4.0) as u32, (full[1] / 4.0) as u32];
    println!(
        "half load: {} requests/s of HTTP/1 and {} of HTTP/2 for {seconds} s",
        rates[0], rates[1]
    );
    let (samples, seen) = std::thread::scope(|scope| {
        let loads = [
            scope.spawn(|| load(&rig, "--h1", 8080, rates[0], seconds)),
            scope.spawn(|| load(&rig, "-m16", 8081, rates[1], seconds)),
        ];
        let samples = watch(&rig, &running, seconds);
        let seen: Result<Vec<Seen>> =
            loads.into_iter().map(|l| l.join().unwrap_or_else(|_| Ok(Seen::default()))).collect();
        (samples, seen)
    });
    let (samples, seen) = (samples?, seen?);
    std::thread::sleep(CALM);
    let calm = sample(&rig, &running)?;
    running.stop(Duration::from_secs(5));
    let verdict = judge(&samples, &calm, &seen);
    if verdict.is_ok() {
        rig.done();
    }
    verdict
}

/// A steady number of requests a second over eight connections.
fn load(rig: &Rig, kind: &str, port: u16, rate: u32, seconds: u32) -> Result<Seen> {
    const CONNECTIONS: u32 = 8;
    let (rps, time) = (format!("--rps={}", (rate / CONNECTIONS).max(1)), seconds.to_string());
    let (connections, url) = (format!("-c{CONNECTIONS}"), format!("http://{}:{port}/", addr::VIP));
    let words = ["h2load", kind, &connections, "-t1", &rps, "-D", &time, &url];
    let text = rig.load(&words, Duration::from_secs(u64::from(seconds) + 60))?;
    cases::read_h2load(&text, seconds)
}

fn watch(rig: &Rig, running: &Running, seconds: u32) -> Result<Vec<Sample>> {
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let mut samples = Vec::new();
    while Instant::now() < end {
        std::thread::sleep(SECOND);
        let now = sample(rig, running)?;
        if samples.len() % 30 == 0 {
            println!("{} s: RSS {:?} KiB, tasks {:?}", samples.len(), now.rss, now.tasks);
        }
        samples.push(now);
    }
    Ok(samples)
}

fn sample(rig: &Rig, running: &Running) -> Result<Sample> {
    let rss = running.usage()?.iter().map(|u| u.rss).collect();
    let tasks = [Role::Client, Role::Server].map(|role| tasks(rig.namespace(role)));
    Ok(Sample { rss, tasks: tasks.into_iter().collect::<Result<_>>()? })
}

fn tasks(namespace: &str) -> Result<Option<f64>> {
    let url = format!("http://127.0.0.1:{ADMIN}/metrics");
    let curl: &mut Command = &mut command(namespace, As::Proxy, "curl");
    let text = output(curl.args(["-sf", "-m", "2", &url]), Duration::from_secs(5))?;
    let line = text.lines().find_map(|line| line.strip_prefix("tokio_rt_tasks "));
    Ok(line.and_then(|n| n.trim().parse().ok()))
}

fn judge(samples: &[Sample], calm: &Sample, seen: &[Seen]) -> Result<()> {
    let failed: u64 = seen.iter().map(|s| s.failed).sum();
    let done: f64 = seen.iter().map(|s| s.units).sum();
    println!(
        "{done:.0} requests, {failed} failed; when calm: RSS {:?} KiB, tasks {:?}",
        calm.rss, calm.tasks
    );
    ensure!(done > 0.0 && failed == 0, "{failed} of {done:.0} requests failed");
    let early = samples.get(samples.len() / 5).context("too short to tell anything")?;
    let first = samples.first().context("too short to tell anything")?;
    for (n, role) in ["client", "server"].into_iter().enumerate() {
        let last = samples.iter().rev().take(samples.len().div_ceil(10)).map(|s| s.rss[n]).max();
        let (early, last) = (early.rss[n] as f64, last.unwrap_or_default() as f64);
        println!(
            "{role}: RSS {early} KiB after a fifth of the time, at most {last} KiB at the end"
        );
        ensure!(last <= early * GROWTH, "the {role}'s proxy grows: {early} to {last} KiB");
        let (Some(before), Some(after)) = (first.tasks[n], calm.tasks[n]) else {
            println!("{role}: the proxy does not tell its number of tasks");
            continue;
        };
        ensure!(
            after <= before + TASKS,
            "the {role}'s proxy keeps tasks: {before} under the first load, {after} after the last"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rss: u64, tasks: f64) -> Sample {
        Sample { rss: vec![rss; 2], tasks: vec![Some(tasks); 2] }
    }

    #[test]
    fn leaks_and_failures_are_told() {
        let seen = |failed| [Seen { units: 9.0, failed, ..Seen::default() }];
        let flat: Vec<_> = (0..20).map(|_| at(100, 50.0)).collect();
        assert!(judge(&flat, &at(100, 40.0), &seen(0)).is_ok());
        assert!(judge(&flat, &at(100, 40.0), &seen(1)).is_err());
        assert!(judge(&flat, &at(100, 400.0), &seen(0)).is_err());
        let growing: Vec<_> = (0..20).map(|n| at(100 + 5 * n, 50.0)).collect();
        assert!(judge(&growing, &at(100, 40.0), &seen(0)).is_err());
    }
}
