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
    let all_fixed = fixed(&hosts).count() == hosts.len();
    let ips = sorted(fixed(&hosts).collect());
    let (sender, receiver) = watch::channel(Addresses { ips, error: None, known: all_fixed });
    let task = tokio::spawn(async move {
        if all_fixed {
            return;
        }
        let mut resolved = HashMap::new();
        loop {
            let (next, pause) = look_up(&hosts, port, resolver.as_ref(), &mut resolved).await;
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

/// Looks all names up; one that fails keeps what it resolved to before. What is known then, and when to look again.
async fn look_up(
    hosts: &[Host],
    port: u16,
    resolver: Option<&Resolver>,
    resolved: &mut HashMap<DnsName, Vec<IpAddr>>,
) -> (Addresses, Duration) {
    let (error, pause) = match resolver {
        Some(resolver) => ask(hosts, port, resolver, resolved).await,
        None => (Some("there is no DNS resolver".into()), LONGEST),
    };
    let ips = sorted(fixed(hosts).chain(resolved.values().flatten().copied()).collect());
    (Addresses { ips, error, known: true }, pause)
}

/// What failed, and when to look again.
async fn ask(
    hosts: &[Host],
    port: u16,
    resolver: &Resolver,
    resolved: &mut HashMap<DnsName, Vec<IpAddr>>,
) -> (Option<String>, Duration) {
    let names = hosts.iter().filter_map(|h| match h {
        Host::Name(name) => Some(name),
        Host::Ip(_) => None,
    });
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

fn fixed(hosts: &[Host]) -> impl Iterator<Item = IpAddr> {
    hosts.iter().filter_map(|h| match h {
        Host::Ip(ip) => Some(*ip),
        Host::Name(_) => None,
    })
}

fn sorted(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.sort_by_key(ToString::to_string);
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{RData, Record, RecordType},
    };
    use mesh_net::dns::TtlBounds;
    use mesh_process::context::PodContext;
    use parking_lot::Mutex;
    use std::{net::Ipv4Addr, sync::Arc};

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

    /// Names of a DNS server, each with its address, or none while the server is in trouble.
    type Zone = Arc<Mutex<HashMap<&'static str, Option<Ipv4Addr>>>>;

    /// A DNS server on loopback.
    async fn dns(zone: Zone) -> Resolver {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Some(socket.local_addr().unwrap());
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..n]).unwrap();
                let asked = query.queries[0].clone();
                let mut answer = Message::response(query.metadata.id, OpCode::Query);
                match zone.lock().get(asked.name.to_ascii().as_str()).copied() {
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                    Some(None) => answer.metadata.response_code = ResponseCode::ServFail,
                    Some(Some(ip)) if asked.query_type == RecordType::A => {
                        let data = RData::A(ip.into());
                        answer.add_answer(Record::from_rdata(asked.name.clone(), 5, data));
                    }
                    Some(Some(_)) => {}
                }
                answer.add_query(asked);
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let pod = PodContext { resolver: server, ..PodContext::default() };
        Resolver::new(&pod, TtlBounds::default()).unwrap()
    }

    // proves: GWA-1
    #[tokio::test]
    async fn a_name_that_fails_keeps_its_addresses_while_the_others_move() {
        let zone = Zone::default();
        let resolver = dns(zone.clone()).await;
        let hosts = ["10.0.0.9", "a.example", "b.example"].map(|host| match host.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(host.parse().unwrap()),
        });
        let mut resolved = HashMap::new();
        let (good, bad) = (|last| Some(Ipv4Addr::new(10, 0, 0, last)), None);
        // What the server says of b, and all addresses after it; a moves each time.
        let rounds = [
            (Some(good(20)), "10.0.0.1 10.0.0.20 10.0.0.9"),
            (Some(bad), "10.0.0.2 10.0.0.20 10.0.0.9"),
            (None, "10.0.0.20 10.0.0.3 10.0.0.9"),
            (Some(good(21)), "10.0.0.21 10.0.0.4 10.0.0.9"),
        ];
        for (round, (b, expected)) in (1..).zip(rounds) {
            *zone.lock() = HashMap::from([("a.example.", good(round))]);
            zone.lock().extend(b.map(|ip| ("b.example.", ip)));
            let (now, again) = look_up(&hosts, 4143, Some(&resolver), &mut resolved).await;
            let ips: Vec<_> = now.ips.iter().map(ToString::to_string).collect();
            assert_eq!(ips.join(" "), expected, "round {round}");
            let failed = !matches!(b, Some(Some(_)));
            assert_eq!(now.error.is_some_and(|e| e.contains("b.example")), failed, "round {round}");
            assert_eq!(again == RETRY, failed, "round {round}");
        }
    }
}
