//! # Gateway addresses
//!
//! Job: keep the list of a gateway's IP addresses up to date while its names resolve to others.
//! May touch: DNS. Must not touch: the gateway. Callers: `mirror` (Endpoints), the probe.

use crate::Host;
use futures::{StreamExt, stream::FuturesUnordered};
use mesh_model::identity::DnsName;
use mesh_net::dns::Resolver;
use std::{collections::HashMap, net::IpAddr, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// Longest time between look-ups, and therefore until a changed record is seen.
const LONGEST: Duration = Duration::from_secs(30);
/// Time to the next look-up after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What is known of a gateway's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// All addresses of all hosts, sorted as text, without duplicates; of a host that does not resolve now,
    /// its last good ones.
    pub ips: Vec<IpAddr>,
    /// What did not resolve, if anything.
    pub error: Option<String>,
    /// True once the first look-up has ended.
    pub known: bool,
}

/// Follows the addresses of `hosts` until the handle is aborted. Plain addresses are known at once.
pub fn spawn(
    hosts: Vec<Host>,
    port: u16,
    resolver: Option<Resolver>,
) -> (watch::Receiver<Addresses>, JoinHandle<()>) {
    let fixed: Vec<IpAddr> = hosts
        .iter()
        .filter_map(|h| match h {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        })
        .collect();
    let all_fixed = fixed.len() == hosts.len();
    let (sender, receiver) =
        watch::channel(Addresses { ips: sorted(fixed.clone()), error: None, known: all_fixed });
    let task = tokio::spawn(async move {
        if all_fixed {
            return;
        }
        let mut resolved = HashMap::new();
        loop {
            let (error, pause) = look_up(&hosts, port, resolver.as_ref(), &mut resolved).await;
            let ips = sorted(fixed.iter().chain(resolved.values().flatten()).copied().collect());
            let next = Addresses { ips, error, known: true };
            sender.send_if_modified(|now| {
                let changed = next != *now;
                *now = next;
                changed
            });
            tokio::time::sleep(pause).await;
        }
    });
    (receiver, task)
}

/// Looks all names up; one that fails keeps what it resolved to before. What failed, and when to look again.
async fn look_up(
    hosts: &[Host],
    port: u16,
    resolver: Option<&Resolver>,
    resolved: &mut HashMap<DnsName, Vec<IpAddr>>,
) -> (Option<String>, Duration) {
    let names = hosts.iter().filter_map(|h| match h {
        Host::Name(name) => Some(name),
        Host::Ip(_) => None,
    });
    let Some(resolver) = resolver else {
        return (Some("there is no DNS resolver".into()), LONGEST);
    };
    let mut answers: FuturesUnordered<_> =
        names.map(async |name| (name, resolver.resolve(name, port).await)).collect();
    let (mut errors, mut pause) = (Vec::new(), LONGEST);
    while let Some((name, answer)) = answers.next().await {
        match answer {
            Ok(found) => {
                let ips = found.addrs.iter().map(|a| a.ip()).collect();
                resolved.insert(name.clone(), ips);
                pause = pause.min(found.ttl);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !errors.is_empty() {
        pause = RETRY;
    }
    let error = (!errors.is_empty()).then(|| errors.join("; "));
    (error, pause)
}

fn sorted(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.sort_by_key(ToString::to_string);
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: GWA-1
    #[tokio::test]
    async fn plain_addresses_are_known_at_once_sorted_as_text() {
        let hosts = ["9.0.0.1", "10.0.0.1", "::1", "9.0.0.1"].map(|t| Host::Ip(t.parse().unwrap()));
        let (addresses, _task) = spawn(hosts.to_vec(), 4143, None);
        let now = addresses.borrow().clone();
        assert!(now.known);
        assert_eq!(
            now.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.1", "9.0.0.1", "::1"]
        );
    }

    // proves: GWA-1
    #[tokio::test]
    async fn names_without_a_resolver_are_an_error_and_leave_the_rest() {
        let hosts =
            vec![Host::Ip("10.0.0.1".parse().unwrap()), Host::Name("a.example".parse().unwrap())];
        let (mut addresses, task) = spawn(hosts, 4143, None);
        let now = addresses.wait_for(|a| a.known).await.unwrap().clone();
        assert_eq!(now.ips.len(), 1);
        assert!(now.error.is_some());
        task.abort();
    }
}
