//! # Forwarders
//!
//! Job: what kube-proxy and a load balancer do: listens on each ClusterIP and LoadBalancer address of a Service
//! while it has a ready endpoint, and carries connections there with the client's address as source.
//! May touch: sockets in the cluster's range. Must not touch: the API. Callers: the node agent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    time::Duration,
};

use rand::seq::IndexedRandom;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::services::{Reachable, ServiceKey};

/// Bytes in flight per direction of a connection.
const BUFFER: usize = 32 * 1024;
/// Limit of one attempt to connect; endpoints are on this machine.
const CONNECT: Duration = Duration::from_secs(3);
/// How many endpoints are tried for one connection.
const ATTEMPTS: usize = 3;
/// Pause before an address that is still in use is bound again.
const REBIND: Duration = Duration::from_millis(20);

/// Where a listener's connections may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Targets {
    ready: Vec<SocketAddr>,
    known: BTreeSet<SocketAddr>,
}

/// All forwarders, by Service and by the address listened on.
#[derive(Default)]
pub(crate) struct Forwarders {
    services: HashMap<ServiceKey, BTreeMap<SocketAddr, watch::Sender<Targets>>>,
}

impl Forwarders {
    /// Brings the forwarders of one Service to what is reachable of it now.
    pub(crate) fn set(&mut self, key: &ServiceKey, reachable: Option<&Reachable>) {
        let wanted = reachable.map(wanted).unwrap_or_default();
        let mut have = self.services.remove(key).unwrap_or_default();
        // A dropped sender ends the listener and its connections.
        have.retain(|address, _| wanted.contains_key(address));
        for (address, targets) in wanted {
            match have.get(&address) {
                Some(sender) => {
                    sender.send_if_modified(|old| {
                        let changed = *old != targets;
                        *old = targets;
                        changed
                    });
                }
                None => {
                    let (sender, receiver) = watch::channel(targets);
                    tokio::spawn(listen(address, receiver));
                    have.insert(address, sender);
                }
            }
        }
        if !have.is_empty() {
            self.services.insert(key.clone(), have);
        }
    }
}

fn wanted(reachable: &Reachable) -> BTreeMap<SocketAddr, Targets> {
    let mut wanted = BTreeMap::new();
    for port in reachable.ports.iter().filter(|p| p.protocol == "TCP" && !p.known.is_empty()) {
        for ip in reachable.cluster_ip.iter().chain(&reachable.balancers) {
            let targets = Targets { ready: port.ready.clone(), known: port.known.clone() };
            wanted.insert(SocketAddr::new(*ip, port.number), targets);
        }
    }
    wanted
}

/// Listens while there is somebody to forward to.
async fn listen(address: SocketAddr, mut targets: watch::Receiver<Targets>) {
    loop {
        until(&mut targets, |t| !t.ready.is_empty()).await;
        if targets.has_changed().is_err() {
            return;
        }
        let listener = match bind(address) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                sleep(REBIND).await;
                if targets.has_changed().is_err() {
                    return;
                }
                continue;
            }
            Err(error) => {
                // Low ports need a privilege that the sandbox does not have; names still resolve.
                tracing::info!(%address, %error, "this address is not forwarded");
                return;
            }
        };
        accept(&listener, &mut targets).await;
    }
}

/// Accepts until there is no ready endpoint any more.
async fn accept(listener: &TcpListener, targets: &mut watch::Receiver<Targets>) {
    let conditions = targets.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    tokio::spawn(forward(client, conditions.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    sleep(REBIND).await;
                }
            },
            () = until(targets, |t| t.ready.is_empty()) => return,
        }
    }
}

/// Completes when the targets are so, or when there are none any more.
async fn until(targets: &mut watch::Receiver<Targets>, mut so: impl FnMut(&Targets) -> bool) {
    let _ = targets.wait_for(|t| so(t)).await.map(drop);
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn forward(mut client: TcpStream, mut targets: watch::Receiver<Targets>) {
    let Some((mut server, target)) = dial(&client, &targets).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    tokio::select! {
        ended = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => {
            if let Err(error) = ended {
                tracing::trace!(%error, "a forwarded connection broke");
            }
        }
        () = until(&mut targets, |t| !t.known.contains(&target)) => {}
    }
}

/// Connects to one ready endpoint after the other, in random order.
async fn dial(
    client: &TcpStream,
    targets: &watch::Receiver<Targets>,
) -> Option<(TcpStream, SocketAddr)> {
    let source = client.peer_addr().ok()?.ip();
    let ready = targets.borrow().ready.clone();
    let order: Vec<_> = ready.sample(&mut rand::rng(), ATTEMPTS).copied().collect();
    for target in order {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(source, 0))?;
            socket.connect(target).await
        };
        match timeout(CONNECT, connect).await {
            Ok(Ok(server)) => return Some((server, target)),
            Ok(Err(error)) => tracing::debug!(%target, %error, "endpoint refused"),
            Err(_) => tracing::debug!(%target, "endpoint does not answer"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::services::Port;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn reachable(at: SocketAddr, ready: &[SocketAddr], known: &[SocketAddr]) -> Reachable {
        Reachable {
            balancers: vec![at.ip()],
            ports: vec![Port {
                number: at.port(),
                protocol: "TCP".into(),
                ready: ready.to_vec(),
                known: known.iter().copied().collect(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    /// A free port on an address that no other test uses.
    fn free() -> SocketAddr {
        let ip = [127, 251, 3, std::process::id().to_le_bytes()[0].max(1)];
        let probe = std::net::TcpListener::bind(SocketAddr::from((ip, 0))).unwrap();
        probe.local_addr().unwrap()
    }

    async fn connected(at: SocketAddr, from: [u8; 4]) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(at).await.ok()
    }

    async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
        timeout(Duration::from_secs(5), async {
            loop {
                if let Some(value) = attempt().await {
                    return value;
                }
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn connections_keep_their_source_and_half_close() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = server.local_addr().unwrap();
        let at = free();
        let key = ("ns".to_owned(), "svc".to_owned());
        let mut forwarders = Forwarders::default();
        forwarders.set(&key, Some(&reachable(at, &[endpoint], &[endpoint])));
        let from = [127, 251, 9, 9];
        let mut client = eventually(|| connected(at, from)).await;
        let (mut accepted, peer) = server.accept().await.unwrap();
        assert_eq!(peer.ip(), std::net::IpAddr::from(from));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        accepted.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        accepted.write_all(b"answer").await.unwrap();
        drop(accepted);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn without_a_ready_endpoint_connects_are_refused_and_old_ones_live() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = server.local_addr().unwrap();
        let at = free();
        let key = ("ns".to_owned(), "svc".to_owned());
        let mut forwarders = Forwarders::default();
        forwarders.set(&key, Some(&reachable(at, &[endpoint], &[endpoint])));
        let mut client = eventually(|| connected(at, [127, 0, 0, 1])).await;
        let (mut accepted, _) = server.accept().await.unwrap();
        forwarders.set(&key, Some(&reachable(at, &[], &[endpoint])));
        eventually(async || connected(at, [127, 0, 0, 1]).await.is_none().then_some(())).await;
        accepted.write_all(b"x").await.unwrap();
        assert_eq!(
            client.read_u8().await.unwrap(),
            b'x',
            "a draining endpoint keeps its connections"
        );
        forwarders.set(&key, None);
        assert_eq!(
            client.read(&mut [0]).await.unwrap_or(0),
            0,
            "an endpoint that is gone does not"
        );
    }
}
