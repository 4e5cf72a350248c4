//! # Report
//!
//! Job: medians, ratios to HAProxy within each round, the table, the JSON, the verdict.
//! May touch: text, one file. Must not touch: the rig. Callers: `main`.

use crate::{cases::Case, idle::Idle, instructions::Count, peers::Peer, run::Sample};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write, fs, path::Path, process::Command};

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    commit: String,
    machine: String,
    pub(crate) samples: Vec<Sample>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) instructions: Vec<Count>,
    rows: Vec<Row>,
}

/// One case with one peer: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    workers: usize,
    case: String,
    #[serde(serialize_with = "crate::run::shown")]
    peer: Peer,
    rate: f64,
    cpu_us: f64,
    /// CPU against HAProxy's in the same round.
    cpu_ratio: Option<f64>,
    p50_us: Option<f64>,
    p50_ratio: Option<f64>,
    p99_us: Option<f64>,
    failed: u64,
    /// KiB, the largest of the proxies: before load, after it.
    rss: (u64, u64),
}

/// The most that ours may cost against HAProxy; `loose` is for a short run on a busy machine.
fn limit(case: Case, loose: bool) -> Option<f64> {
    let floor = match case {
        Case::H1 => 0.9,
        Case::H2 => 1.3,
        Case::Tcp => 0.7,
        Case::Conn => 0.6,
        _ => return None,
    };
    Some(if loose { floor * 1.4 } else { floor })
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            commit: told("git", &["rev-parse", "--short", "HEAD"]),
            machine: format!("{}, {}", told("uname", &["-srm"]), processor()),
            samples: Vec::new(),
            idle: Vec::new(),
            instructions: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Computes the rows.
    pub(crate) fn finish(&mut self) {
        let mut groups: BTreeMap<(usize, Case, Peer), Vec<&Sample>> = BTreeMap::new();
        for sample in &self.samples {
            groups.entry((sample.workers, sample.case, sample.peer)).or_default().push(sample);
        }
        let rows = groups.iter().map(|((workers, case, peer), samples)| {
            let base = groups.get(&(*workers, *case, Peer::Haproxy));
            row(*workers, *case, *peer, samples, base.map(Vec::as_slice))
        });
        self.rows = rows.collect();
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// The table as text.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "\ncommit {}, {}\nmedians; ratios are to HAProxy in the same round\n\n{:<3}{:<11}{:<9}{:>10}{:>10}{:>8}{:>9}{:>8}{:>9}{:>15}\n",
            self.commit,
            self.machine,
            "w",
            "case",
            "peer",
            "rate/s",
            "cpu us",
            "ratio",
            "p50 us",
            "ratio",
            "p99 us",
            "RSS KiB"
        );
        let mut line = |args: std::fmt::Arguments<'_>| {
            // Fails never: it is a string.
            let _ = writeln!(text, "{args}");
        };
        for r in &self.rows {
            let failed =
                if r.failed > 0 { format!("  {} FAILED", r.failed) } else { String::new() };
            line(format_args!(
                "{:<3}{:<11}{:<9}{:>10.0}{:>10.1}{:>8}{:>9}{:>8}{:>9}{:>15}{failed}",
                r.workers,
                r.case,
                r.peer.to_string(),
                r.rate,
                r.cpu_us,
                opt(r.cpu_ratio, 2),
                opt(r.p50_us, 0),
                opt(r.p50_ratio, 2),
                opt(r.p99_us, 0),
                format!("{} {}", r.rss.0, r.rss.1),
            ));
        }
        for i in &self.idle {
            line(format_args!(
                "{} idle connections, {}: {:.1?} KiB each; RSS idle {:?}, after one connection {:?}, after all {:?} KiB",
                i.connections, i.peer, i.kib, i.rss_idle, i.rss_before, i.rss_after
            ));
        }
        for count in &self.instructions {
            let sum: f64 = count.each.iter().sum();
            line(format_args!(
                "instructions a request in user space, {} {}: {sum:.0} = {:.0?}",
                count.case, count.peer, count.each
            ));
        }
        text
    }

    /// Whether ours keeps within the limits; each broken one as a sentence.
    pub(crate) fn broken(&self, loose: bool) -> Vec<String> {
        let ours = self.rows.iter().filter(|r| r.peer == Peer::Mesh);
        ours.filter_map(|r| {
            let case = <Case as clap::ValueEnum>::from_str(&r.case, false).ok()?;
            let (limit, ratio) = (limit(case, loose)?, r.cpu_ratio?);
            (ratio > limit || r.failed > 0).then(|| {
                format!(
                    "{} with {} worker(s): {ratio:.2} of HAProxy's CPU, at most {limit:.2} is allowed; {} failed",
                    r.case, r.workers, r.failed
                )
            })
        })
        .collect()
    }
}

fn row(
    workers: usize,
    case: Case,
    peer: Peer,
    samples: &[&Sample],
    base: Option<&[&Sample]>,
) -> Row {
    let of = |value: &dyn Fn(&Sample) -> Option<f64>| {
        median(samples.iter().filter_map(|s| value(s)).collect())
    };
    let against = |value: &dyn Fn(&Sample) -> Option<f64>| {
        let pairs = samples.iter().filter_map(|s| {
            let other = base?.iter().find(|b| b.round == s.round)?;
            Some(value(s)? / value(other).filter(|v| *v > 0.0)?)
        });
        median(pairs.collect())
    };
    let largest = |value: &dyn Fn(&Sample) -> Option<&u64>| {
        samples.iter().filter_map(|s| value(s)).max().copied().unwrap_or_default()
    };
    Row {
        workers,
        case: case.name(),
        peer,
        rate: of(&|s| Some(s.rate())).unwrap_or_default(),
        cpu_us: of(&|s| Some(s.cpu())).unwrap_or_default(),
        cpu_ratio: against(&|s| Some(s.cpu())).filter(|_| peer != Peer::Direct),
        p50_us: of(&|s| s.seen.p50_us),
        p50_ratio: against(&|s| s.seen.p50_us),
        p99_us: of(&|s| s.seen.p99_us),
        failed: samples.iter().map(|s| s.seen.failed).sum(),
        rss: (largest(&|s| s.rss_idle.iter().max()), largest(&|s| s.rss_after.iter().max())),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn opt(value: Option<f64>, digits: usize) -> String {
    value.map(|v| format!("{v:.digits$}")).unwrap_or_default()
}

/// The first line that a program prints, or nothing.
fn told(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names: Vec<_> = info.lines().filter_map(|l| l.strip_prefix("model name")).collect();
    let name = names.first().map_or("", |n| n.trim_start_matches([' ', '\t', ':']));
    format!("{} x {name}", names.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Seen;

    fn sample(round: u32, peer: Peer, cpu: f64) -> Sample {
        let seen = Seen { units: 10.0, seconds: 1.0, ..Seen::default() };
        Sample {
            round,
            workers: 1,
            case: Case::H1,
            peer,
            seen,
            cpu_us: vec![cpu / 2.0; 2],
            rss_idle: vec![1, 2],
            rss_after: vec![3, 4],
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut report = Report::new();
        // The machine is three times as slow in the last round.
        for (round, slow) in [(0, 1.0), (1, 1.0), (2, 3.0)] {
            report.samples.push(sample(round, Peer::Haproxy, 10.0 * slow));
            report.samples.push(sample(round, Peer::Mesh, 20.0 * slow));
        }
        report.finish();
        let ours = report.rows.iter().find(|r| r.peer == Peer::Mesh).unwrap();
        assert_eq!((ours.cpu_us, ours.cpu_ratio), (20.0, Some(2.0)));
        assert_eq!(ours.rss, (2, 4));
        assert_eq!(report.broken(true).len(), 1);
        report.samples.retain(|s| s.peer == Peer::Haproxy);
        report.finish();
        assert!(report.broken(false).is_empty());
        assert_eq!(median(vec![3.0, 1.0, 2.0, 10.0]), Some(2.5));
    }
}
