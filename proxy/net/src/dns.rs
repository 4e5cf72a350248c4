//! # DNS
//!
//! Job: addresses of a control-plane service: SRV first, else A and AAAA, with the time they may be kept.
//! May touch: the resolver. Must not touch: connections to what it finds. Callers: control-plane clients.

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use mesh_model::identity::DnsName;
use mesh_process::context::PodContext;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

/// Shortest time that an answer is kept, also a negative one.
pub const TTL_FLOOR: Duration = Duration::from_secs(5);

/// Looks names up. Cheap to clone; nothing is cached, callers keep answers for their time.
#[derive(Clone, Debug)]
pub struct Resolver {
    resolver: TokioResolver,
    ttl: TtlBounds,
}

/// Bounds on how long answers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TtlBounds {
    /// At least, if above [`TTL_FLOOR`].
    pub min: Option<Duration>,
    /// At most.
    pub max: Option<Duration>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// In order, without duplicates; never empty.
    pub addrs: Vec<SocketAddr>,
    /// How long it holds from now.
    pub ttl: Duration,
    /// The kind of record that answered.
    pub record: RecordKind,
}

/// Kind of record, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Service records.
    Srv,
    /// Address records.
    Ip,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The resolver's configuration is unusable.
    #[error("the DNS configuration cannot be used: {0}")]
    Config(#[source] NetError),
    /// The name has no address.
    #[error("{name} has no address; asked again in {ttl:?}")]
    NotFound {
        /// The name.
        name: DnsName,
        /// How long that holds.
        ttl: Duration,
    },
    /// No server gave an answer.
    #[error("{name} cannot be resolved: {source}")]
    Failed {
        /// The name.
        name: DnsName,
        /// The last failure.
        source: NetError,
    },
}

impl Resolver {
    /// The system's resolver, or the one of the Pod's context.
    ///
    /// # Errors
    /// When the system's configuration cannot be read.
    pub fn new(pod: &PodContext, ttl: TtlBounds) -> Result<Self, DnsError> {
        let mut builder = match pod.resolver {
            None => TokioResolver::builder_tokio().map_err(DnsError::Config)?,
            Some(server) => TokioResolver::builder_with_config(
                config_of(server),
                TokioRuntimeProvider::default(),
            ),
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Two look-ups, each tried twice, must have failed before the connection that waits for them (5 s):
        // else nobody would learn that it is the names.
        options.timeout = Duration::from_secs(1);
        options.attempts = 1;
        Ok(Self { resolver: builder.build().map_err(DnsError::Config)?, ttl })
    }

    /// Addresses of `name`: the targets and ports of its SRV records, else its addresses with `port`.
    ///
    /// # Errors
    /// When there is none, or nobody answers.
    pub async fn resolve(&self, name: &DnsName, port: u16) -> Result<Resolution, DnsError> {
        match self.services(name).await {
            Ok(found) => Ok(found),
            Err(error) => {
                tracing::debug!(%name, %error, "no SRV records; looking up addresses");
                self.addresses(name, port).await
            }
        }
    }

    async fn services(&self, name: &DnsName) -> Result<Resolution, DnsError> {
        let lookup = self.resolver.srv_lookup(fully_qualified(name)).await;
        let lookup = lookup.map_err(|e| self.failure(name, e))?;
        let mut addrs = BTreeSet::new();
        for record in lookup.answers() {
            let RData::SRV(srv) = &record.data else { continue };
            let target = srv.target.to_ascii();
            match dashed_ip(&target) {
                Some(ip) => {
                    addrs.insert(SocketAddr::new(ip, srv.port));
                }
                None => {
                    let found = self.resolver.lookup_ip(target).await;
                    let found = found.map_err(|e| self.failure(name, e))?;
                    addrs.extend(found.iter().map(|ip| SocketAddr::new(ip, srv.port)));
                }
            }
        }
        self.answer(name, addrs, lookup.valid_until(), RecordKind::Srv)
    }

    async fn addresses(&self, name: &DnsName, port: u16) -> Result<Resolution, DnsError> {
        let lookup = self.resolver.lookup_ip(fully_qualified(name)).await;
        let lookup = lookup.map_err(|e| self.failure(name, e))?;
        let addrs = lookup.iter().map(|ip| SocketAddr::new(ip, port)).collect();
        self.answer(name, addrs, lookup.valid_until(), RecordKind::Ip)
    }

    fn answer(
        &self,
        name: &DnsName,
        addrs: BTreeSet<SocketAddr>,
        valid_until: Instant,
        record: RecordKind,
    ) -> Result<Resolution, DnsError> {
        let ttl = self.ttl.clamp(valid_until.saturating_duration_since(Instant::now()));
        if addrs.is_empty() {
            return Err(DnsError::NotFound { name: name.clone(), ttl });
        }
        Ok(Resolution { addrs: addrs.into_iter().collect(), ttl, record })
    }

    fn failure(&self, name: &DnsName, source: NetError) -> DnsError {
        if source.is_no_records_found() || source.is_nx_domain() {
            return DnsError::NotFound { name: name.clone(), ttl: self.ttl.clamp(TTL_FLOOR) };
        }
        DnsError::Failed { name: name.clone(), source }
    }
}

impl TtlBounds {
    fn clamp(self, ttl: Duration) -> Duration {
        let ttl = ttl.max(TTL_FLOOR).max(self.min.unwrap_or_default());
        self.max.map_or(ttl, |max| ttl.min(max))
    }
}

/// `10-1-2-3.rest` or `fd00--1.rest`: a target of a headless Service that spells its address.
fn dashed_ip(target: &str) -> Option<IpAddr> {
    let label = target.split('.').next()?;
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

fn fully_qualified(name: &DnsName) -> String {
    format!("{name}.")
}

fn config_of(server: SocketAddr) -> ResolverConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    let servers = vec![NameServerConfig::new(server.ip(), true, connections)];
    ResolverConfig::from_parts(None, Vec::new(), servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{Name, Record, rdata::SRV},
    };

    // proves: NET-4
    #[test]
    fn dashed_targets_spell_their_address() {
        let of = |t| dashed_ip(t).map(|ip| ip.to_string());
        assert_eq!(of("10-1-2-3.dst.linkerd.svc.cluster.local."), Some("10.1.2.3".into()));
        assert_eq!(of("fd00--1.dst.svc."), Some("fd00::1".into()));
        assert_eq!(of("web-0.dst.svc."), None);
        assert_eq!(of("10-1-2.dst."), None);
        assert_eq!(of(""), None);
    }

    /// A DNS server on loopback over a few records; anything else is NXDOMAIN.
    async fn server(records: Vec<Record>) -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..n]).unwrap();
                let asked = query.queries[0].clone();
                let found = records
                    .iter()
                    .filter(|r| r.name == asked.name && r.record_type() == asked.query_type);
                let mut answer = Message::response(query.metadata.id, OpCode::Query);
                answer.add_answers(found.cloned());
                if answer.answers.is_empty() {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.add_query(asked);
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        addr
    }

    // proves: NET-4
    #[tokio::test]
    async fn services_come_first_then_addresses() {
        let record = |name: &str, ttl, data| Record::from_rdata(name.parse().unwrap(), ttl, data);
        let srv = |target: &str| RData::SRV(SRV::new(0, 0, 8086, target.parse::<Name>().unwrap()));
        let dns = server(vec![
            record("dst.linkerd.svc.", 2, srv("10-0-0-7.dst.linkerd.svc.")),
            record("dst.linkerd.svc.", 2, srv("web-0.dst.linkerd.svc.")),
            record("web-0.dst.linkerd.svc.", 2, RData::A(Ipv4Addr::new(10, 0, 0, 8).into())),
            record("plain.linkerd.svc.", 60, RData::A(Ipv4Addr::new(10, 0, 0, 9).into())),
        ])
        .await;
        let pod = PodContext { resolver: Some(dns), ..PodContext::default() };
        let resolver = Resolver::new(&pod, TtlBounds::default()).unwrap();
        let of = async |name: &str| resolver.resolve(&name.parse().unwrap(), 80).await;

        let services = of("dst.linkerd.svc").await.unwrap();
        let printed: Vec<_> = services.addrs.iter().map(ToString::to_string).collect();
        assert_eq!(printed, ["10.0.0.7:8086", "10.0.0.8:8086"]);
        assert_eq!((services.record, services.ttl), (RecordKind::Srv, TTL_FLOOR));

        let plain = of("plain.linkerd.svc").await.unwrap();
        assert_eq!(plain.addrs, ["10.0.0.9:80".parse::<SocketAddr>().unwrap()]);
        assert_eq!(plain.record, RecordKind::Ip);
        assert!(plain.ttl > Duration::from_secs(50));

        let none = of("none.linkerd.svc").await.unwrap_err();
        assert!(matches!(none, DnsError::NotFound { .. }), "{none}");
    }

    // proves: NET-4
    #[test]
    fn answers_are_kept_within_bounds() {
        let s = Duration::from_secs;
        assert_eq!(TtlBounds::default().clamp(s(0)), s(5));
        assert_eq!(TtlBounds::default().clamp(s(60)), s(60));
        let bounds = TtlBounds { min: Some(s(10)), max: Some(s(20)) };
        assert_eq!((bounds.clamp(s(1)), bounds.clamp(s(90))), (s(10), s(20)));
    }
}
