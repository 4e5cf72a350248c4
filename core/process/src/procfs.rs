//! # The process as the kernel sees it
//!
//! Job: read CPU, memory, descriptors, threads and network bytes of this process.
//! May touch: `/proc/self`, `/proc/stat`. Must not touch: other processes. A file that is missing or
//! does not parse reads as 0, since a metric must not fail a scrape. Callers: `metrics`.

use std::fs;

/// A reading of `/proc/self/stat`.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) virtual_bytes: i64,
    pub(crate) resident_bytes: i64,
    pub(crate) threads: i64,
}

/// Reads CPU, memory and threads.
pub(crate) fn usage() -> Usage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let field = fields(&stat);
    Usage {
        cpu_seconds: (field(UTIME) + field(STIME)) as f64 / TICKS_PER_SECOND,
        threads: field(NUM_THREADS),
        virtual_bytes: field(VSIZE),
        resident_bytes: resident_bytes(),
    }
}

/// Unix time of the process's start, in seconds.
pub(crate) fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = fields(&stat)(START_TICKS);
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks as f64 / TICKS_PER_SECOND)
}

/// Number of open descriptors.
pub(crate) fn open_fds() -> i64 {
    // The directory handle of the reading itself is one of them.
    fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as i64 - 1)
}

/// Soft limit of open descriptors.
pub(crate) fn max_fds() -> i64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes received and sent by the interfaces of the network namespace, loopback aside.
pub(crate) fn network_bytes() -> (f64, f64) {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut sum = (0.0, 0.0);
    for (name, counters) in text.lines().filter_map(|l| l.split_once(':')) {
        if name.trim() == "lo" {
            continue;
        }
        let at = |i: usize| counters.split_whitespace().nth(i)?.parse::<f64>().ok();
        sum.0 += at(0).unwrap_or(0.0);
        sum.1 += at(8).unwrap_or(0.0);
    }
    sum
}

/// Fields of `/proc/<pid>/stat` by their number in proc(5). The command name (field 2) may hold spaces
/// and brackets, so counting starts after the last one.
fn fields(stat: &str) -> impl Fn(usize) -> i64 + '_ {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    move |number| {
        let text = rest.split_whitespace().nth(number - 3);
        text.and_then(|t| t.parse().ok()).unwrap_or(0)
    }
}

/// From `status`, which counts in kB whatever the page size is.
fn resident_bytes() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0) * 1024
}

const UTIME: usize = 14;
const STIME: usize = 15;
const NUM_THREADS: usize = 20;
const START_TICKS: usize = 22;
const VSIZE: usize = 23;
/// `USER_HZ`, fixed at 100 by the kernel's ABI on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
