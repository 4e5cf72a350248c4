//! # Gateway addresses
//!
//! Job: keep the list of a gateway's IP addresses up to date while its names resolve to others.
//! May touch: DNS. Must not touch: the gateway. Callers: `mirror` (Endpoints), the probe.

use crate::Host;
use futures::{StreamExt, stream::FuturesUnordered};
use mesh_net::dns::Resolver;
use std::{net::IpAddr, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// Longest time between look-ups, and therefore until a changed record is seen.
const LONGEST: Duration = Duration::from_secs(30);
/// Time to the next look-up after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What is known of a gateway's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// All addresses of all hosts, sorted as text, without duplicates. The last good ones if the
    /// latest look-up failed.
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
        loop {
            let (found, error, pause) = look_up(&hosts, port, resolver.as_ref()).await;
            sender.send_if_modified(|now| {
                let ips = match &error {
                    // Names that fail keep what they resolved to before.
                    Some(_) => {
                        sorted(fixed.iter().chain(&found).chain(&now.ips).copied().collect())
                    }
                    None => sorted(fixed.iter().chain(&found).copied().collect()),
                };
                let next = Addresses { ips, error, known: true };
                let changed = next != *now;
                *now = next;
                changed
            });
            tokio::time::sleep(pause).await;
        }
    });
    (receiver, task)
}

async fn look_up(
    hosts: &[Host],
    port: u16,
    resolver: Option<&Resolver>,
) -> (Vec<IpAddr>, Option<String>, Duration) {
    let names = hosts.iter().filter_map(|h| match h {
        Host::Name(name) => Some(name),
        Host::Ip(_) => None,
    });
    let Some(resolver) = resolver else {
        return (Vec::new(), Some("there is no DNS resolver".into()), LONGEST);
    };
    let mut answers: FuturesUnordered<_> = names.map(|name| resolver.resolve(name, port)).collect();
    let (mut ips, mut errors, mut pause) = (Vec::new(), Vec::new(), LONGEST);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(found) => {
                ips.extend(found.addrs.iter().map(|a| a.ip()));
                pause = pause.min(found.ttl);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !errors.is_empty() {
        pause = RETRY;
    }
    let error = (!errors.is_empty()).then(|| errors.join("; "));
    (ips, error, pause)
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
