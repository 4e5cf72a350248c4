//! # LoadBalancer addresses on kind
//!
//! Job: gives each LoadBalancer Service an address of the engine's own network, which leads to the cluster's node.
//! May touch: Service status, addresses of the node's loopback. Callers: the provider `kind`.

use super::{Kind, NAMES};
use crate::{kubectl::Kubectl, note, provider::Provider, run};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So often in a row no cluster may answer; then they are gone, by whatever hand.
const GONE_AFTER: u32 = 300;
/// Addresses of a cluster: a sixteenth of a network, but no more than these.
const SHARE: u32 = 256;

/// Gives every LoadBalancer Service of both clusters an address, as long as there is a cluster.
///
/// # Errors
/// When the engine's network cannot be read, or no cluster answers any more.
pub(super) fn serve(kind: &Kind) -> Result<()> {
    let subnet = subnet(&kind.network()?)?;
    let ranges = [addresses(subnet, 0)?, addresses(subnet, 1)?];
    let mut told = String::new();
    let mut failed = 0;
    while failed < GONE_AFTER {
        let mut errors = Vec::new();
        for (name, range) in NAMES.into_iter().zip(&ranges) {
            let done = kind.on(name).and_then(|kubectl| assign(kind, &kubectl, range));
            errors.extend(done.err().map(|error| format!("{name}: {error:#}")));
        }
        failed = if errors.len() == NAMES.len() { failed + 1 } else { 0 };
        // The next round asks again; the log tells each change once.
        let now = errors.join("\n");
        if now != told {
            note(&now);
            told = now;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("no cluster has answered for long")
}

/// The IPv4 range of a network, as docker and as podman tell it: its address and its length.
fn subnet(network: &Value) -> Result<(Ipv4Addr, u32)> {
    let docker = network[0]["IPAM"]["Config"].as_array();
    let subnets = docker.or_else(|| network[0]["subnets"].as_array()).into_iter().flatten();
    subnets
        .filter_map(|s| s["Subnet"].as_str().or_else(|| s["subnet"].as_str()))
        .find_map(|subnet| {
            let (address, length) = subnet.split_once('/')?;
            Some((address.parse().ok()?, length.parse().ok()?))
        })
        .context("the network of kind has no IPv4 range")
}

/// The addresses of a cluster: from the upper end of the range down, as engines give theirs out from the lower up.
fn addresses((address, length): (Ipv4Addr, u32), number: u32) -> Result<Vec<Ipv4Addr>> {
    let size = 1_u32.checked_shl(32_u32.saturating_sub(length)).unwrap_or(u32::MAX);
    let share = SHARE.min(size / 16);
    ensure!(
        share > 0,
        "the network of kind, {address}/{length}, is too small: remove it when no cluster uses it, and make one of 256 \
         addresses or more"
    );
    let last = u32::from(address) | (size - 1);
    let end = last - number * share;
    Ok((end - share..end).rev().map(Ipv4Addr::from).collect())
}

fn assign(kind: &Kind, kubectl: &Kubectl, range: &[Ipv4Addr]) -> Result<()> {
    let services = kubectl.get("services --all-namespaces --request-timeout=10s")?;
    let items = services["items"].as_array().cloned().unwrap_or_default();
    let given =
        |s: &Value| s["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned);
    let taken: BTreeSet<String> = items.iter().filter_map(given).collect();
    let mut free = range.iter().map(Ipv4Addr::to_string).filter(|ip| !taken.contains(ip));
    for service in &items {
        if service["spec"]["type"] != "LoadBalancer" || given(service).is_some() {
            continue;
        }
        let meta = &service["metadata"];
        let (Some(namespace), Some(name)) = (meta["namespace"].as_str(), meta["name"].as_str())
        else {
            bail!("a Service without a name");
        };
        let ip = free.next().context("all LoadBalancer addresses are given out")?;
        let node = super::node(&kubectl.context);
        let engine = kind.engine()?.program();
        // On eth0 it would lead podman's CNI astray when it takes the node away.
        run::line(&format!("{engine} exec {node} ip addr replace {ip}/32 dev lo"))?;
        let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{ip}"}}]}}}}}}"#);
        let patch = ["--subresource=status", "--type=merge", "-p", &status];
        kubectl.run(&[&["patch", "service", name, "-n", namespace], &patch[..]].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_range_is_read_from_both_engines() {
        let docker = json!([{"IPAM": {"Config": [{"Subnet": "fc00:f853::/64"}, {"Subnet": "172.18.0.0/16"}]}}]);
        assert_eq!(subnet(&docker).unwrap(), ([172, 18, 0, 0].into(), 16));
        let podman =
            json!([{"subnets": [{"subnet": "fc00:f853::/64"}, {"subnet": "10.89.0.0/24"}]}]);
        assert_eq!(subnet(&podman).unwrap(), ([10, 89, 0, 0].into(), 24));
        assert!(subnet(&json!([{}])).is_err());
    }

    #[test]
    fn addresses_lie_in_the_range_and_never_in_both_clusters() {
        let of = |length, number| addresses(([10, 89, 0, 0].into(), length), number).unwrap();
        let ends = |list: Vec<Ipv4Addr>| (list.len(), list[0], list[list.len() - 1]);
        assert_eq!(ends(of(24, 0)), (16, [10, 89, 0, 254].into(), [10, 89, 0, 239].into()));
        assert_eq!(ends(of(24, 1)), (16, [10, 89, 0, 238].into(), [10, 89, 0, 223].into()));
        assert_eq!(ends(of(16, 0)), (256, [10, 89, 255, 254].into(), [10, 89, 254, 255].into()));
        assert_eq!(ends(of(16, 1)).1, Ipv4Addr::new(10, 89, 254, 254));
        assert!(addresses(([10, 89, 0, 0].into(), 29), 0).is_err());
    }
}
