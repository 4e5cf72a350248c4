//! # Cases
//!
//! Job: what is measured: a load tool's call for each case, and what it printed as numbers.
//! May touch: load tools. Must not touch: proxies. Callers: the bench.

use crate::{net::addr, rig::Rig};
use anyhow::{Context, Result};
use std::{fs, time::Duration};

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Case {
    /// HTTP/1, 64 connections kept alive, 128-byte answers, as fast as it goes.
    H1,
    /// HTTP/2, 4 connections of 16 streams.
    H2,
    /// gRPC unary calls, 4 connections of 16 streams.
    Grpc,
    /// HTTP/1 at 500 requests per second over 10 connections: latency.
    Lat,
    /// One bulk stream on a port that nobody looks into. The unit is a MB.
    Tcp,
    /// A new connection for each request on such a port: one TLS handshake each.
    Conn,
    /// HTTP/1, answers of 1 KiB.
    H1Body1k,
    /// HTTP/1, answers of 16 KiB.
    H1Body16k,
    /// HTTP/1, answers of 1 MiB, 16 connections.
    H1Body1m,
    /// HTTP/1 through a gateway to the server: three proxies.
    Gateway,
}

/// What a load tool has seen.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Seen {
    /// Requests, connections or megabytes.
    pub(crate) units: f64,
    pub(crate) seconds: f64,
    pub(crate) failed: u64,
    /// Latency, microseconds.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
}

impl Case {
    /// As tables name it.
    pub(crate) fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// Loads the rig for some seconds.
    pub(crate) fn run(self, rig: &Rig, seconds: u32) -> Result<Seen> {
        let limit = Duration::from_secs(u64::from(seconds) + 30);
        let load = |words: &[&str]| rig.load(words, limit);
        let (time, vip) = (seconds.to_string(), addr::VIP);
        let url = |port: u16, path: &str| format!("http://{vip}:{port}/{path}");
        let wrk = |connections: &str, url: &str, more: &[&str]| {
            let duration = format!("-d{seconds}s");
            let mut words = vec!["wrk", "-t1", connections, &duration, "--latency"];
            words.extend(more);
            words.push(url);
            read_wrk(&load(&words)?, seconds)
        };
        match self {
            Self::H1 => wrk("-c64", &url(8080, ""), &[]),
            Self::H1Body1k => wrk("-c64", &url(8080, "1k"), &[]),
            Self::H1Body16k => wrk("-c64", &url(8080, "16k"), &[]),
            Self::H1Body1m => wrk("-c16", &url(8080, "1m"), &[]),
            Self::Gateway => wrk("-c64", &format!("http://{}:8080/", addr::REMOTE_VIP), &[]),
            Self::Conn => wrk("-c16", &url(8082, ""), &["-H", "Connection: close"]),
            Self::H2 => {
                let url = url(8081, "");
                read_h2load(&load(&["h2load", "-c4", "-m16", "-t1", "-D", &time, &url])?, seconds)
            }
            Self::Grpc => {
                let body = rig.dir.join("grpc.body");
                // One message of 16 bytes, not compressed.
                fs::write(&body, [&[0, 0, 0, 0, 16][..], &[b'x'; 16]].concat())?;
                let (body, url) = (body.display().to_string(), url(8083, "bench.Echo/Call"));
                let kind = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
                let mut words = vec!["h2load", "-c4", "-m16", "-t1", "-D", &time, "-d", &body];
                words.extend(kind);
                words.push(&url);
                read_h2load(&load(&words)?, seconds)
            }
            Self::Lat => paced(rig, &url(8080, ""), seconds, limit),
            Self::Tcp => {
                let text = load(&["iperf3", "-c", vip, "-t", &time, "-J"])?;
                read_iperf(&text)
            }
        }
    }
}

fn paced(rig: &Rig, url: &str, seconds: u32, limit: Duration) -> Result<Seen> {
    let log = rig.dir.join("h2load.log");
    let _ = fs::remove_file(&log);
    let (time, file) = (seconds.to_string(), format!("--log-file={}", log.display()));
    let words = ["h2load", "--h1", "-c10", "-t1", "--rps=50", "-D", &time, &file, url];
    let mut seen = read_h2load(&rig.load(&words, limit)?, seconds)?;
    let text = fs::read_to_string(&log).context("h2load's log")?;
    // Columns: start, status, duration in microseconds.
    let times = text.lines().filter_map(|line| {
        let mut columns = line.split('\t');
        (columns.nth(1)? == "200").then(|| columns.next()?.trim().parse().ok()).flatten()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times.get(((times.len() as f64 * q) as usize).min(times.len().max(1) - 1));
    (seen.p50_us, seen.p99_us) = (at(0.5).copied(), at(0.99).copied());
    Ok(seen)
}

fn read_wrk(text: &str, seconds: u32) -> Result<Seen> {
    let units = number_before(text, " requests in ").context("wrk tells no number of requests")?;
    let errors = text.lines().find_map(|l| l.trim().strip_prefix("Socket errors:"));
    let broken: u64 =
        errors.map_or(0, |l| l.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum());
    let refused = text.lines().find_map(|l| l.trim().strip_prefix("Non-2xx or 3xx responses:"));
    let refused: u64 = refused.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    let latency = |percent: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(percent));
        line.and_then(|value| micros(value.trim()))
    };
    Ok(Seen {
        units,
        seconds: seconds.into(),
        failed: broken + refused,
        p50_us: latency("50%"),
        p99_us: latency("99%"),
    })
}

pub(crate) fn read_h2load(text: &str, seconds: u32) -> Result<Seen> {
    let units = number_before(text, " 2xx").context("h2load tells no number of answers")?;
    let failed = number_before(text, " failed").unwrap_or(0.0) as u64;
    Ok(Seen { units, seconds: seconds.into(), failed, ..Seen::default() })
}

fn read_iperf(text: &str) -> Result<Seen> {
    let report: serde_json::Value = serde_json::from_str(text).context("iperf3's report")?;
    let received = &report["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().with_context(|| format!("iperf3: no {name}"));
    Ok(Seen { units: number("bytes")? / 1e6, seconds: number("seconds")?, ..Seen::default() })
}

/// The number that stands right before `mark`.
fn number_before(text: &str, mark: &str) -> Option<f64> {
    let before = &text[..text.find(mark)?];
    before.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
}

/// `1.50ms` as microseconds.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_print_is_read() {
        let wrk = "  Thread Stats\n  Latency Distribution\n     50%    1.50ms\n     99%   20.00us\n  \
                   5021 requests in 2.00s, 1.20MB read\n  Socket errors: connect 1, read 2, write 0, timeout 3\n  \
                   Non-2xx or 3xx responses: 4\nRequests/sec: 2\n";
        let seen = read_wrk(wrk, 2).unwrap();
        assert_eq!((seen.units, seen.failed), (5021.0, 10));
        assert_eq!((seen.p50_us, seen.p99_us), (Some(1500.0), Some(20.0)));
        let h2load = "requests: 100 total, 100 started, 98 done, 97 succeeded, 1 failed, 0 errored\n\
                      status codes: 97 2xx, 0 3xx, 0 4xx, 1 5xx\n";
        let seen = read_h2load(h2load, 1).unwrap();
        assert_eq!((seen.units, seen.failed), (97.0, 1));
        let iperf = r#"{"end":{"sum_received":{"bytes":3000000,"seconds":1.5}}}"#;
        assert_eq!(read_iperf(iperf).unwrap().units, 3.0);
        assert!(read_wrk("nonsense", 1).is_err());
    }
}
