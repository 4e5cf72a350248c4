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
const UNREST: Unrest = Unrest { churn_ms: 100, policy_ms: 1_000, leaf_seconds: Some(LEAF) };
/// Life of certificates, seconds.
const LEAF: u64 = 30;
/// How much memory may grow from the end of the first fifth to the end.
const GROWTH: f64 = 1.15;
/// Tasks by which two calm moments may differ: an endpoint has just left or returned.
const TASKS: f64 = 4.0;
/// Time for connections and caches to leave when the load has ended.
const CALM: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);

/// Resident memory, KiB, and what its metrics tell of each proxy at one moment.
struct Sample {
    rss: Vec<u64>,
    told: Vec<Told>,
}

/// What a proxy tells of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    tasks: f64,
    panics: f64,
    /// Certificates that it got.
    renewals: f64,
    /// Requests that policies decided, by the names that a route or server has in turn.
    policies: [f64; 2],
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
    // What the first load has made leaves before tasks are counted.
    std::thread::sleep(CALM);
    let before = sample(&rig, &running)?;
    println!("before the load: RSS {:?} KiB, tasks {:?}", before.rss, before.tasks());
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
    let verdict = judge(&samples, [&before, &calm], &seen, seconds);
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
            println!("{} s: RSS {:?} KiB, tasks {:?}", samples.len(), now.rss, now.tasks());
        }
        samples.push(now);
    }
    Ok(samples)
}

fn sample(rig: &Rig, running: &Running) -> Result<Sample> {
    let rss = running.usage()?.iter().map(|u| u.rss).collect();
    let told = [Role::Client, Role::Server].map(|role| told(rig.namespace(role)));
    Ok(Sample { rss, told: told.into_iter().collect::<Result<_>>()? })
}

fn told(namespace: &str) -> Result<Told> {
    let url = format!("http://127.0.0.1:{ADMIN}/metrics");
    let curl: &mut Command = &mut command(namespace, As::Proxy, "curl");
    let text = output(curl.args(["-sf", "-m", "2", &url]), Duration::from_secs(5))?;
    Ok(Told::of(&text))
}

impl Told {
    fn of(text: &str) -> Self {
        let sum = |family: &str, label: &str| -> f64 {
            let of = |line: &&str| line.starts_with(family) && line.contains(label);
            let value = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
            // Of nothing the sum is -0.
            text.lines().filter(of).filter_map(value).sum::<f64>() + 0.0
        };
        // The client's proxy has outbound routes; the server's has authorisations alone.
        let decided = |[route, authz]: [&str; 2]| {
            let routed = sum("outbound_http_route_request_statuses_total{", "");
            match routed > 0.0 {
                true => sum("outbound_http_route_request_statuses_total{", route),
                false => sum("inbound_http_authz_allow_total{", authz),
            }
        };
        Self {
            tasks: sum("tokio_rt_tasks ", ""),
            panics: sum("proxy_task_panics_total{", ""),
            renewals: sum("control_identity_cert_refreshes_total{", r#"result="ok""#),
            policies: [
                decided([r#"route_name="http""#, r#"authz_name="all-unauthenticated""#]),
                decided([
                    r#"route_name="http-changed""#,
                    r#"authz_name="all-unauthenticated-changed""#,
                ]),
            ],
        }
    }
}

impl Sample {
    fn tasks(&self) -> Vec<f64> {
        self.told.iter().map(|told| told.tasks).collect()
    }
}

fn judge(samples: &[Sample], calm: [&Sample; 2], seen: &[Seen], seconds: u32) -> Result<()> {
    let [before, after] = calm;
    let failed: u64 = seen.iter().map(|s| s.failed).sum();
    let done: f64 = seen.iter().map(|s| s.units).sum();
    println!(
        "{done:.0} requests, {failed} failed; when calm: RSS {:?} KiB, tasks {:?}",
        after.rss,
        after.tasks()
    );
    ensure!(done > 0.0 && failed == 0, "{failed} of {done:.0} requests failed");
    let early = samples.get(samples.len() / 5).context("too short to tell anything")?;
    for (n, role) in ["client", "server"].into_iter().enumerate() {
        let last = samples.iter().rev().take(samples.len().div_ceil(10)).map(|s| s.rss[n]).max();
        let (early, last) = (early.rss[n] as f64, last.unwrap_or_default() as f64);
        println!(
            "{role}: RSS {early} KiB after a fifth of the time, at most {last} KiB at the end"
        );
        ensure!(last <= early * GROWTH, "the {role}'s proxy grows: {early} to {last} KiB");
        let (before, after) = (before.told[n], after.told[n]);
        let renewals = after.renewals - before.renewals;
        let [old, new] = [0, 1].map(|n| after.policies[n] - before.policies[n]);
        println!(
            "{role}: {} tasks before, {} after; {renewals} certificates; {old} requests under one \
             policy and {new} under the other; {} panics",
            before.tasks, after.tasks, after.panics
        );
        ensure!(
            before.tasks > 0.0 && (after.tasks - before.tasks).abs() <= TASKS,
            "the {role}'s proxy had {} tasks and has {}",
            before.tasks,
            after.tasks
        );
        ensure!(after.panics == 0.0, "{} tasks of the {role}'s proxy panicked", after.panics);
        ensure!(old > 0.0 && new > 0.0, "the policies of the {role}'s proxy did not change");
        let due = f64::from(seconds) / LEAF as f64;
        ensure!(renewals >= due.floor(), "the {role}'s proxy was not certified again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rss: u64, tasks: f64) -> Sample {
        at_work(rss, Told { tasks, ..Told::default() })
    }

    fn at_work(rss: u64, told: Told) -> Sample {
        Sample { rss: vec![rss; 2], told: vec![told; 2] }
    }

    #[test]
    fn leaks_and_failures_are_told() {
        let seen = |failed| [Seen { units: 9.0, failed, ..Seen::default() }];
        let flat: Vec<_> = (0..20).map(|_| at(100, 50.0)).collect();
        let well = Told { tasks: 42.0, panics: 0.0, renewals: 5.0, policies: [3.0, 3.0] };
        let judged = |samples: &[Sample], told, failed| {
            judge(samples, [&at(100, 40.0), &at_work(100, told)], &seen(failed), 60)
        };
        assert!(judged(&flat, well, 0).is_ok());
        assert!(judged(&flat, well, 1).is_err());
        for wrong in [
            Told { tasks: 50.0, ..well },
            Told { tasks: 30.0, ..well },
            Told { panics: 1.0, ..well },
            Told { renewals: 1.0, ..well },
            Told { policies: [9.0, 0.0], ..well },
        ] {
            assert!(judged(&flat, wrong, 0).is_err(), "{wrong:?}");
        }
        let growing: Vec<_> = (0..20).map(|n| at(100 + 5 * n, 50.0)).collect();
        assert!(judged(&growing, well, 0).is_err());
    }

    #[test]
    fn what_a_proxy_tells_is_read() {
        let text = "tokio_rt_tasks 12\n\
            control_identity_cert_refreshes_total{result=\"ok\"} 3\n\
            outbound_http_route_request_statuses_total{route_name=\"http\"} 5\n\
            outbound_http_route_request_statuses_total{route_name=\"http-changed\"} 7\n\
            inbound_http_authz_allow_total{authz_name=\"all-unauthenticated-changed\"} 1\n";
        let told = Told::of(text);
        assert_eq!((told.tasks, told.panics, told.renewals), (12.0, 0.0, 3.0));
        assert_eq!(told.policies, [5.0, 7.0]);
        let server = Told::of(text.lines().last().unwrap());
        assert_eq!(server.policies, [0.0, 1.0]);
    }
}
