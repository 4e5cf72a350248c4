//! # Instructions
//!
//! Job: count the instructions that a request costs each proxy in user space, with callgrind: a figure that
//! does not depend on what else the machine does.
//! May touch: the rig. Callers: the run.

use crate::{
    cases::{Case, read_h2load},
    net::addr,
    peers::{Options, Peer},
    rig::Rig,
};
use anyhow::{Context, Result, ensure};
use std::{fs, time::Duration};

/// The result.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Count {
    #[serde(serialize_with = "crate::run::shown")]
    pub(crate) peer: Peer,
    pub(crate) case: String,
    /// Instructions a request: client's proxy, server's proxy.
    pub(crate) each: Vec<f64>,
}

/// Two runs that differ in the number of requests alone: what start, handshakes and end cost falls out.
const FEW: u32 = 1_000;
const MANY: u32 = 4_000;
const LIMIT: Duration = Duration::from_secs(120);

/// Counts for a case of HTTP/1 or HTTP/2.
pub(crate) fn measure(rig: &Rig, peer: Peer, case: Case) -> Result<Count> {
    let few = total(rig, peer, case, FEW)?;
    let many = total(rig, peer, case, MANY)?;
    let each = few.iter().zip(&many).map(|(few, many)| (many - few) / f64::from(MANY - FEW));
    Ok(Count { peer, case: case.name(), each: each.collect() })
}

fn total(rig: &Rig, peer: Peer, case: Case, requests: u32) -> Result<Vec<f64>> {
    let under = ["valgrind", "--tool=callgrind", "--callgrind-out-file={name}.callgrind"];
    let under = under.map(str::to_owned).to_vec();
    let options = Options { workers: 1, gateway: false, under };
    let running = peer.start(rig, &options)?;
    let (number, vip) = (requests.to_string(), addr::VIP);
    let url = |port: u16| format!("http://{vip}:{port}/");
    // Its first connection takes seconds under valgrind, more than a proxy may let a request wait.
    let port = if case == Case::H2 { 8081 } else { 8080 };
    let kind = if case == Case::H2 { "--http2-prior-knowledge" } else { "--http1.1" };
    let first =
        ["curl", "-sf", "-m", "20", kind, "--retry", "20", "--retry-all-errors", &url(port)];
    rig.load(&first, LIMIT)?;
    let text = match case {
        Case::H2 => rig.load(&["h2load", "-c4", "-m16", "-t1", "-n", &number, &url(8081)], LIMIT),
        _ => rig.load(&["h2load", "--h1", "-c16", "-t1", "-n", &number, &url(8080)], LIMIT),
    };
    let done = read_h2load(&text?, 1)?.units;
    ensure!(done == f64::from(requests), "{peer}: {done} of {requests} requests succeeded");
    let names: Vec<_> = running.proxies.iter().map(|p| p.name.clone()).collect();
    running.stop(Duration::from_secs(60));
    names.iter().map(|name| collected(rig, name)).collect()
}

/// The sum that callgrind writes when its program ends.
fn collected(rig: &Rig, name: &str) -> Result<f64> {
    let path = rig.dir.join(format!("{name}.callgrind"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let sum = text.lines().find_map(|line| line.strip_prefix("totals:"));
    let sum = sum.and_then(|sum| sum.trim().parse().ok());
    sum.with_context(|| format!("{} has no total", path.display()))
}
