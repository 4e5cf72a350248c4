//! # Networks of the rig
//!
//! Job: three network namespaces (client, server, gateway), joined by veth pairs, and the redirect rules in
//! them; all gone when this is dropped.
//! May touch: namespaces that it made. Must not touch: the host's network. Callers: the bench.

use crate::process::{PROXY_GROUP, output};
use anyhow::Result;
use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

/// Addresses of the rig. They are seen inside its namespaces only.
pub(crate) mod addr {
    /// The client.
    pub(crate) const CLIENT: &str = "10.88.0.1";
    /// The server, and the further addresses that make it look like several.
    pub(crate) const SERVERS: [&str; 4] = ["10.88.0.2", "10.88.0.12", "10.88.0.13", "10.88.0.14"];
    /// The gateway, toward the client.
    pub(crate) const GATEWAY: &str = "10.88.1.3";
    /// The Service.
    pub(crate) const VIP: &str = "10.96.0.10";
    /// The Service behind the gateway, as the client knows it.
    pub(crate) const REMOTE_VIP: &str = "10.96.0.11";
    /// The same, as the gateway knows it.
    pub(crate) const BEHIND_VIP: &str = "10.96.0.12";
}

/// The namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) gateway: String,
}

/// Namespaces to remove when the bench is interrupted.
static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
const LIMIT: Duration = Duration::from_secs(10);

impl Net {
    /// Makes the namespaces and links, named after this process.
    pub(crate) fn up() -> Result<Self> {
        let name = |role| format!("mesh-bench-{}-{role}", std::process::id());
        let net = Self { client: name("c"), server: name("s"), gateway: name("g") };
        for namespace in [&net.client, &net.server, &net.gateway] {
            made().push(namespace.clone());
            ip(&["netns", "add", namespace])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        net.pair((&net.client, "to-s", addr::CLIENT), (&net.server, "to-c", addr::SERVERS[0]))?;
        net.pair((&net.client, "to-g", "10.88.1.1"), (&net.gateway, "to-c", addr::GATEWAY))?;
        net.pair((&net.gateway, "to-s", "10.88.2.3"), (&net.server, "to-g", "10.88.2.2"))?;
        for more in &addr::SERVERS[1..] {
            ip(&["-n", &net.server, "addr", "add", &format!("{more}/24"), "dev", "to-c"])?;
        }
        let default =
            |namespace: &str, via| ip(&["-n", namespace, "route", "add", "default", "via", via]);
        default(&net.client, addr::SERVERS[0])?;
        default(&net.server, addr::CLIENT)?;
        default(&net.gateway, "10.88.2.2")?;
        Ok(net)
    }

    fn pair(&self, one: (&str, &str, &str), other: (&str, &str, &str)) -> Result<()> {
        ip(&[
            "link", "add", one.1, "netns", one.0, "type", "veth", "peer", "name", other.1, "netns",
            other.0,
        ])?;
        for (namespace, link, address) in [one, other] {
            ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", link])?;
            ip(&["-n", namespace, "link", "set", link, "up"])?;
        }
        Ok(())
    }

    /// Replaces the redirect rules: statements for what leaves the client's applications, and for what
    /// arrives at the server.
    pub(crate) fn rules(&self, client: &[String], server: &[String]) -> Result<()> {
        let pass = format!("meta skgid {PROXY_GROUP} return\noifname \"lo\" return\n");
        nft(&self.client, &table("output", &(pass + &client.join("\n"))))?;
        nft(&self.server, &table("prerouting", &server.join("\n")))
    }
}

fn table(hook: &str, lines: &str) -> String {
    format!(
        "flush ruleset\ntable ip bench {{\nchain way {{\ntype nat hook {hook} priority -100;\n{lines}\n}}\n}}\n"
    )
}

impl Drop for Net {
    fn drop(&mut self) {
        remove_all();
    }
}

/// Removes all namespaces of this process. Also for the handler of signals.
pub(crate) fn remove_all() {
    for namespace in std::mem::take(&mut *made()) {
        let _ = ip(&["netns", "del", &namespace]);
    }
}

fn made() -> std::sync::MutexGuard<'static, Vec<String>> {
    MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn ip(args: &[&str]) -> Result<String> {
    output(Command::new("ip").args(args), LIMIT)
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let ended = child.wait_with_output()?;
    anyhow::ensure!(
        ended.status.success(),
        "the kernel refuses these rules: {}\n{rules}",
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}
