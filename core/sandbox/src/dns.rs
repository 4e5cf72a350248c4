//! # Cluster DNS
//!
//! Job: answers names of Services and their Pods as Kubernetes' DNS specification says (A and SRV), from memory, over
//! UDP and TCP. What it knows last stays true for it while the API server is away.
//! May touch: its own sockets. Must not touch: the API; it is told what exists.
//! Callers: the node agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, SOA, SRV},
    },
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    cluster::ClusterError,
    node::services::{Reachable, ServiceKey},
};

/// How long an answer may be kept, in seconds: short, because it follows the cluster at once.
const TTL: u32 = 1;
/// An idle TCP client is let go after this.
const IDLE: Duration = Duration::from_secs(10);
/// Largest answer over UDP to a client that does not say what it takes (RFC 1035, 4.2.1).
const UDP_LIMIT: usize = 512;

/// All names of the cluster.
pub struct Zone {
    domain: String,
    services: BTreeMap<ServiceKey, Reachable>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The name is not in the cluster's zone at all.
    Foreign,
    /// No such name.
    Nothing,
    /// The name exists; these are its records of all types.
    Records(Vec<Data>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    Address(IpAddr),
    Service { port: u16, target: String },
}

impl Zone {
    /// A zone of that suffix, e.g. `cluster.local`, without names.
    pub fn new(domain: &str) -> Self {
        Self { domain: domain.trim_matches('.').to_ascii_lowercase(), services: BTreeMap::new() }
    }

    /// Tells what is reachable of a Service now; none if it does not exist any more.
    pub(crate) fn set(&mut self, key: ServiceKey, reachable: Option<Reachable>) {
        match reachable {
            Some(reachable) => self.services.insert(key, reachable),
            None => self.services.remove(&key),
        };
    }

    fn find(&self, name: &str) -> Found {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let Some(rest) = name.strip_suffix(&self.domain) else { return Found::Foreign };
        if rest.is_empty() {
            return Found::Records(Vec::new());
        }
        let Some(rest) = rest.strip_suffix('.') else { return Found::Foreign };
        let labels: Vec<&str> = rest.split('.').collect();
        match labels.as_slice() {
            ["svc"] => Found::Records(Vec::new()),
            [namespace, "svc"] => {
                // A namespace exists as a name while anything is below it.
                let some = self.services.keys().any(|(ns, _)| ns == namespace);
                if some { Found::Records(Vec::new()) } else { Found::Nothing }
            }
            [service, namespace, "svc"] => self.service(service, namespace),
            [port, protocol, service, namespace, "svc"]
                if port.starts_with('_') && protocol.starts_with('_') =>
            {
                self.port(&port[1..], &protocol[1..], service, namespace)
            }
            [host, service, namespace, "svc"] => self.host(host, service, namespace),
            _ => Found::Nothing,
        }
    }

    fn get(&self, service: &str, namespace: &str) -> Option<&Reachable> {
        self.services.get(&(namespace.to_owned(), service.to_owned()))
    }

    fn service(&self, service: &str, namespace: &str) -> Found {
        let Some(reachable) = self.get(service, namespace) else { return Found::Nothing };
        if let Some(ip) = reachable.cluster_ip {
            return Found::Records(vec![Data::Address(ip)]);
        }
        let ips: BTreeSet<_> = reachable.hosts.iter().map(|(_, ip)| *ip).collect();
        let mut records: Vec<_> = ips.into_iter().map(Data::Address).collect();
        for port in reachable.ports.iter().filter(|p| !p.name.is_empty()) {
            let Found::Records(ports) =
                self.port(&port.name, &port.protocol.to_ascii_lowercase(), service, namespace)
            else {
                continue;
            };
            records.extend(ports);
        }
        Found::Records(records)
    }

    fn host(&self, host: &str, service: &str, namespace: &str) -> Found {
        let Some(reachable) = self.get(service, namespace).filter(|r| r.cluster_ip.is_none())
        else {
            return Found::Nothing;
        };
        let named = reachable.hosts.iter().filter(|(name, ip)| host_label(name, *ip) == host);
        let records: Vec<_> = named.map(|(_, ip)| Data::Address(*ip)).collect();
        if records.is_empty() { Found::Nothing } else { Found::Records(records) }
    }

    fn port(&self, port: &str, protocol: &str, service: &str, namespace: &str) -> Found {
        let Some(reachable) = self.get(service, namespace) else { return Found::Nothing };
        let mut ports = reachable.ports.iter();
        let fits = |p: &&crate::node::services::Port| {
            p.name.eq_ignore_ascii_case(port) && p.protocol.eq_ignore_ascii_case(protocol)
        };
        let Some(port) = ports.find(fits) else { return Found::Nothing };
        let base = format!("{service}.{namespace}.svc.{}.", self.domain);
        if reachable.cluster_ip.is_some() {
            return Found::Records(vec![Data::Service { port: port.number, target: base }]);
        }
        let targets = reachable.hosts.iter().map(|(host, ip)| Data::Service {
            port: port.target,
            target: format!("{}.{base}", host_label(host, *ip)),
        });
        let records: Vec<_> = targets.collect();
        if records.is_empty() { Found::Nothing } else { Found::Records(records) }
    }

    /// Answers one query.
    fn answer(&self, request: &Message) -> Message {
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.add_queries(request.queries.iter().cloned());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            response.set_edns(edns);
        }
        let query = match request.queries.as_slice() {
            [query] if request.metadata.op_code == OpCode::Query => query,
            _ => {
                response.metadata.response_code = ResponseCode::NotImp;
                return response;
            }
        };
        match self.find(&query.name().to_ascii()) {
            Found::Foreign => response.metadata.response_code = ResponseCode::Refused,
            Found::Nothing => {
                response.metadata.authoritative = true;
                response.metadata.response_code = ResponseCode::NXDomain;
                response.authorities.extend(self.soa());
            }
            Found::Records(data) => {
                response.metadata.authoritative = true;
                response.answers = data.iter().filter_map(|d| record(query, d)).collect();
                self.add_targets(&mut response);
                if response.answers.is_empty() {
                    response.authorities.extend(self.soa());
                }
            }
        }
        response
    }

    /// The addresses of the targets of SRV records spare the client a second question.
    fn add_targets(&self, response: &mut Message) {
        let targets: Vec<Name> = response
            .answers
            .iter()
            .filter_map(|r| match &r.data {
                RData::SRV(srv) => Some(srv.target.clone()),
                _ => None,
            })
            .collect();
        for target in targets {
            let Found::Records(data) = self.find(&target.to_ascii()) else { continue };
            let query = Query::query(target, RecordType::A);
            response.additionals.extend(data.iter().filter_map(|d| record(&query, d)));
        }
    }

    fn soa(&self) -> Option<Record> {
        let zone = Name::from_ascii(format!("{}.", self.domain)).ok()?;
        let server = Name::from_ascii(format!("ns.dns.{}.", self.domain)).ok()?;
        let person = Name::from_ascii(format!("hostmaster.{}.", self.domain)).ok()?;
        let soa = SOA::new(server, person, 1, 7200, 1800, 86400, TTL);
        Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
    }
}

/// A Pod without a host name is named by its address.
fn host_label(name: &str, ip: IpAddr) -> String {
    if name.is_empty() { ip.to_string().replace(['.', ':'], "-") } else { name.to_owned() }
}

fn record(query: &Query, data: &Data) -> Option<Record> {
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return None;
    }
    let all = query.query_type() == RecordType::ANY;
    let rdata = match data {
        Data::Address(IpAddr::V4(ip)) if all || query.query_type() == RecordType::A => {
            RData::A(A(*ip))
        }
        Data::Service { port, target } if all || query.query_type() == RecordType::SRV => {
            RData::SRV(SRV::new(0, 100, *port, Name::from_ascii(target).ok()?))
        }
        _ => return None,
    };
    Some(Record::from_rdata(query.name().clone(), TTL, rdata))
}

/// Binds the DNS server; the returned future serves until it is dropped.
///
/// # Errors
/// If the address is taken.
pub(crate) async fn bind(
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
) -> Result<impl Future<Output = ()> + Send + 'static, ClusterError> {
    let occupied = |error: std::io::Error| {
        ClusterError::Internal(format!("cannot serve DNS on {address}: {error}"))
    };
    let udp = udp_socket(address).map_err(occupied)?;
    let tcp = TcpListener::bind(udp.local_addr().map_err(occupied)?).await.map_err(occupied)?;
    Ok(async move {
        tokio::join!(serve_udp(udp, zone.clone()), serve_tcp(tcp, zone));
    })
}

/// Desktop name services listen on the same port of the wildcard address and allow others beside them.
fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = vec![0u8; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(request) = parse(&buffer[..length]) else { continue };
        let limit = request.edns.as_ref().map_or(UDP_LIMIT, |e| usize::from(e.max_payload()));
        let response = zone.lock().answer(&request);
        let Ok(mut bytes) = response.to_vec() else { continue };
        if bytes.len() > limit.max(UDP_LIMIT) {
            let mut short = response.truncate();
            short.metadata.truncation = true;
            let Ok(truncated) = short.to_vec() else { continue };
            bytes = truncated;
        }
        let _ = socket.send_to(&bytes, client).await;
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, zone.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) {
    while let Ok(Ok(length)) = timeout(IDLE, stream.read_u16()).await {
        let mut buffer = vec![0u8; usize::from(length)];
        if !matches!(timeout(IDLE, stream.read_exact(&mut buffer)).await, Ok(Ok(_))) {
            return;
        }
        let Some(request) = parse(&buffer) else { return };
        let answer = zone.lock().answer(&request).to_vec();
        let Ok(bytes) = answer else { return };
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        if !matches!(timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// A question; anything else is not answered.
fn parse(bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.message_type == MessageType::Query).then_some(message)
}

#[cfg(test)]
mod tests;
