//! # Load
//!
//! Job: many requests, in a closed loop (so many at once) or an open one (so many a second, whatever
//! the answers do), each counted; latencies as percentiles.
//! May touch: the clock, [`crate::client`]. Must not touch: addresses it was not given.
//! Callers: the demo, tests, the bench.

use crate::client::{Client, Target};
use http::StatusCode;
use std::{collections::BTreeMap, fmt, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// `workers` requests at once, `requests` in all.
    Closed {
        /// Connections, each with one request at a time.
        workers: usize,
        /// Total.
        requests: usize,
        /// A connection of its own for each request.
        fresh: bool,
    },
    /// A request every `1/rate` seconds for `length`, on as many connections as are needed, at most
    /// `workers`; one that finds none free is counted as failed (`overload`).
    Open {
        /// Most connections.
        workers: usize,
        /// Requests a second.
        rate: u32,
        /// For how long.
        length: Duration,
    },
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests answered with 2xx.
    pub good: usize,
    /// All others, by status or kind of error.
    pub failed: BTreeMap<String, usize>,
    /// When the first and last failure began, from the start.
    pub failing: Option<(Duration, Duration)>,
    /// From first to last.
    pub elapsed: Duration,
    latencies: Vec<Duration>,
}

impl Report {
    /// Number of requests that failed.
    pub fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// Latency that `percent` of the good answers did not exceed; `None` without good answers.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        let rank = (percent / 100.0 * last as f64).round() as usize;
        self.latencies.get(rank.min(last)).copied()
    }

    fn add(&mut self, sample: Sample) {
        match sample.outcome {
            Ok(status) if status.is_success() => {
                self.good += 1;
                self.latencies.push(sample.took);
            }
            other => {
                let why = other.map_or_else(str::to_owned, |status| status.as_u16().to_string());
                *self.failed.entry(why).or_default() += 1;
                let first = self.failing.map_or(sample.at, |(first, _)| first.min(sample.at));
                let last = self.failing.map_or(sample.at, |(_, last)| last.max(sample.at));
                self.failing = Some((first, last));
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.good + self.failures();
        let rate = total as f64 / self.elapsed.as_secs_f64().max(0.001);
        write!(f, "{total} requests, {} failed, {rate:.0}/s", self.failures())?;
        for (name, percent) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("max", 100.0)] {
            if let Some(latency) = self.percentile(percent) {
                write!(f, ", {name} {:.2} ms", latency.as_secs_f64() * 1e3)?;
            }
        }
        for (why, count) in &self.failed {
            write!(f, ", {count} x {why}")?;
        }
        Ok(())
    }
}

struct Sample {
    at: Duration,
    took: Duration,
    outcome: Result<StatusCode, &'static str>,
}

/// Sends requests to `target` at `pace`, and returns when the last is answered or has failed.
pub async fn run(target: &Target, pace: Pace) -> Report {
    let start = Instant::now();
    let (results, mut samples) = mpsc::channel(1024);
    match pace {
        Pace::Closed { workers, requests, fresh } => {
            let workers = workers.max(1);
            for worker in 0..workers {
                let share = requests / workers + usize::from(worker < requests % workers);
                tokio::spawn(closed(target.clone(), start, share, fresh, results.clone()));
            }
        }
        Pace::Open { workers, rate, length } => {
            tokio::spawn(open(target.clone(), start, workers, rate, length, results.clone()));
        }
    }
    drop(results);
    let mut report = Report::default();
    while let Some(sample) = samples.recv().await {
        report.add(sample);
    }
    report.elapsed = start.elapsed();
    report.latencies.sort_unstable();
    report
}

/// One worker of a closed loop.
async fn closed(
    target: Target,
    start: Instant,
    requests: usize,
    fresh: bool,
    results: mpsc::Sender<Sample>,
) {
    let mut client = Client::new(target.clone());
    for _ in 0..requests {
        if fresh {
            client = Client::new(target.clone());
        }
        if results.send(ask(&mut client, start).await).await.is_err() {
            return;
        }
    }
}

async fn open(
    target: Target,
    start: Instant,
    workers: usize,
    rate: u32,
    length: Duration,
    results: mpsc::Sender<Sample>,
) {
    let period = Duration::from_secs(1) / rate.max(1);
    let mut tick = tokio::time::interval_at(start, period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let (give_back, mut idle) = mpsc::channel::<Client>(workers.max(1));
    let mut made = 0;
    while start.elapsed() < length {
        tick.tick().await;
        let client = match idle.try_recv() {
            Ok(client) => client,
            Err(_) if made < workers => {
                made += 1;
                Client::new(target.clone())
            }
            Err(_) => {
                let sample =
                    Sample { at: start.elapsed(), took: Duration::ZERO, outcome: Err("overload") };
                if results.send(sample).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let (results, give_back) = (results.clone(), give_back.clone());
        tokio::spawn(async move {
            let mut client = client;
            let sample = ask(&mut client, start).await;
            // Both receivers outlive the run unless it was given up.
            let _ = give_back.send(client).await;
            let _ = results.send(sample).await;
        });
    }
}

async fn ask(client: &mut Client, start: Instant) -> Sample {
    let begun = Instant::now();
    let outcome = client.get().await.map(|answer| answer.status).map_err(|e| e.kind());
    Sample { at: begun - start, took: begun.elapsed(), outcome }
}
