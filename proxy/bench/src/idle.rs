//! # Idle connections
//!
//! Job: what a proxied connection costs in memory while nothing flows; hold such connections.
//! May touch: the rig. Callers: the run; `main` for the holding side.

use crate::{
    net::addr,
    peers::{Options, Peer, Role, Running},
    process::{As, command, files, output},
    rig::Rig,
};
use anyhow::{Context, Result, ensure};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

/// HTTP that nobody looks into: the server waits for its client.
const PORT: u16 = 8082;

/// Until then a peer may be busy with its start.
const STARTED: Duration = Duration::from_secs(4);

/// The result.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Idle {
    #[serde(serialize_with = "crate::run::shown")]
    pub(crate) peer: Peer,
    pub(crate) connections: usize,
    /// KiB a connection: client's proxy, server's proxy.
    pub(crate) kib: Vec<f64>,
    /// Resident memory of each some seconds after its start, without a connection so far, KiB.
    pub(crate) rss_idle: Vec<u64>,
    /// When one connection has come and gone.
    pub(crate) rss_before: Vec<u64>,
    /// A while after the last has gone.
    pub(crate) rss_after: Vec<u64>,
}

/// Opens `count` connections, or as many as the host has descriptors for, on a port that nobody looks into, and reads what the proxies grew by.
pub(crate) fn measure(rig: &Rig, peer: Peer, count: usize) -> Result<Idle> {
    // Two descriptors a connection, and some for the proxy itself.
    let most = (files() as usize).saturating_sub(400) / 2;
    let count = count.min(most);
    let options = Options { workers: 1, gateway: false, under: Vec::new() };
    let running = peer.start(rig, &options)?;
    let rss = |running: &Running| -> Result<Vec<u64>> {
        Ok(running.usage()?.iter().map(|u| u.rss).collect())
    };
    std::thread::sleep(STARTED);
    let rss_idle = rss(&running)?;
    // The first connection brings discovery, caches and lazily made parts.
    hold_while(rig, 1, || settle(&running))?;
    let rss_before = rss(&running)?;
    let held = hold_while(rig, count, || {
        all_arrived(rig, count)?;
        settle(&running)?;
        rss(&running)
    })?;
    settle(&running)?;
    let rss_after = rss(&running)?;
    running.stop(Duration::from_secs(2));
    let each = |(before, held): (&u64, u64)| (held as f64 - *before as f64) / count as f64;
    let kib = rss_before.iter().zip(held).map(each).collect();
    Ok(Idle { peer, connections: count, kib, rss_idle, rss_before, rss_after })
}

/// Waits until the proxies do nothing any more: all handshakes are over.
fn settle(running: &Running) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let before: f64 = running.usage()?.iter().map(|u| u.cpu).sum();
        std::thread::sleep(Duration::from_millis(700));
        let after: f64 = running.usage()?.iter().map(|u| u.cpu).sum();
        if after - before < 0.03 {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the proxies are busy without load");
    }
}

/// Waits until the application has all connections: on a busy machine a proxy may look idle before.
fn all_arrived(rig: &Rig, count: usize) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let mut ss = command(rig.namespace(Role::Server), As::Proxy, "ss");
        ss.args(["-Htn", "state", "established", &format!("sport = :{PORT}")]);
        let arrived = output(&mut ss, Duration::from_secs(20))?.lines().count();
        if arrived >= count {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{arrived} of {count} connections have arrived");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn hold_while<T>(rig: &Rig, count: usize, then: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = std::env::current_exe()?;
    let mut command = rig.client(&own);
    command.args(["hold", &format!("{}:{PORT}", addr::VIP), &count.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("a pipe that was asked for")?;
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line.trim() == "up", "{count} connections cannot be held: {line}");
    let result = then();
    // The end of its input is its end.
    drop(child.stdin.take());
    child.wait()?;
    result
}

/// The holding side: says `up` when all connections are there, and keeps them until its input ends.
pub(crate) fn hold(to: SocketAddr, count: usize) -> Result<()> {
    let mut held = Vec::with_capacity(count);
    for n in 0..count {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10));
        held.push(stream.with_context(|| format!("connection {n} to {to}"))?);
    }
    std::io::stdout().write_all(b"up\n")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
