//! # Settings
//!
//! Job: the environment, read once into typed values; all bad ones are reported together.
//! May touch: a lookup of variables. Must not touch: files, sockets: nothing is bound or read here.
//! Callers: `run`; each stack's `Config` is made from its part.

pub(crate) mod table;

use ipnet::IpNet;
use mesh_model::{authority::Authority, identity::Identity, ports::PortSet};
use mesh_process::{
    context::{Interception, PodContext},
    settings::{BadSettings, Form, Problem, Reader, Reported, Setting, form, form::Suffix},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use table as t;

/// Everything the proxy is told.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) log: (String, bool),
    pub(crate) admin: SocketAddr,
    pub(crate) shutdown_endpoint: bool,
    pub(crate) grace: Duration,
    pub(crate) retain_idle: Duration,
    pub(crate) workers: usize,
    /// Whether the local address counts as a connection's original destination.
    pub(crate) local_original_dst: bool,
    /// Whether outbound serves explicit proxy requests.
    pub(crate) explicit: bool,
    pub(crate) snapshot: Option<PathBuf>,
    pub(crate) outbound: Direction,
    pub(crate) outbound_listen: Vec<SocketAddr>,
    pub(crate) quiet: bool,
    pub(crate) h2_windows: (u32, u32),
    pub(crate) inbound: Direction,
    pub(crate) inbound_listen: SocketAddr,
    pub(crate) policy: InboundPolicy,
    pub(crate) control: Control,
    pub(crate) identity: IdentitySettings,
}

/// What both directions are told alike.
#[derive(Debug)]
pub(crate) struct Direction {
    pub(crate) detect_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) http: Queue,
    pub(crate) max_in_flight: usize,
    pub(crate) discovery_idle: Duration,
    pub(crate) max_idle_conns: usize,
    pub(crate) h1_idle: Duration,
    pub(crate) accept: Tcp,
    pub(crate) connect: Tcp,
    pub(crate) backlog: Option<u32>,
    /// HTTP/2 PING interval and timeout toward clients; both or none.
    pub(crate) ping: Option<(Duration, Duration)>,
}

/// Pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    pub(crate) jitter: f64,
}

/// A queue in front of endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) capacity: usize,
    pub(crate) failfast: Duration,
}

/// Options of TCP sockets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) keepalive: Option<Duration>,
    pub(crate) user_timeout: Option<Duration>,
}

/// Inbound policy as far as it is local.
#[derive(Debug)]
pub(crate) struct InboundPolicy {
    pub(crate) default: String,
    pub(crate) ports: PortSet,
    pub(crate) opaque: PortSet,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) cluster_networks: Vec<IpNet>,
    pub(crate) gateway_suffixes: Vec<Suffix>,
}

/// The control plane.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) destination: Service,
    pub(crate) policy: Service,
    pub(crate) identity: Service,
    pub(crate) context: String,
    pub(crate) workload: String,
    pub(crate) profile_networks: Vec<IpNet>,
    pub(crate) profile_suffixes: Vec<Suffix>,
    /// Initial, idle, lifetime.
    pub(crate) streams: [Option<Duration>; 3],
}

/// One service of the control plane; without a name it is on loopback, in plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) addr: Authority,
    pub(crate) name: Option<Identity>,
}

/// Own identity.
#[derive(Debug)]
pub(crate) struct IdentitySettings {
    pub(crate) dir: PathBuf,
    pub(crate) anchors: String,
    pub(crate) token_file: PathBuf,
    pub(crate) name: Identity,
    pub(crate) refresh: (Duration, Duration),
}

impl Settings {
    /// Reads all; `cpus` is the number of CPUs that may be used.
    ///
    /// # Errors
    /// With every problem, each naming variable, value and expected form.
    pub(crate) fn read(
        lookup: impl Fn(&str) -> Option<String>,
        pod: &PodContext,
        cpus: usize,
    ) -> Result<Self, BadSettings> {
        let mut reader = Reader::from_lookup(t::TABLES, lookup);
        let settings = read(&mut reader, pod, cpus);
        reader.finish()?;
        Ok(settings?)
    }
}

/// Reads every part before the first error counts, so that all bad values are told at once.
fn read(r: &mut Reader<'_>, pod: &PodContext, cpus: usize) -> Result<Settings, Reported> {
    let log = r.value(&t::LOG, form::TEXT);
    let json = r.value(&t::LOG_FORMAT, form::LOG_FORMAT);
    let admin = r.value(&t::ADMIN_LISTEN_ADDR, form::SOCKET);
    let shutdown_endpoint = r.value(&t::SHUTDOWN_ENDPOINT_ENABLED, form::BOOL);
    let grace = r.value(&t::SHUTDOWN_GRACE_PERIOD, form::DURATION);
    let retain_idle = r.value(&t::METRICS_RETAIN_IDLE, form::DURATION);
    let workers = workers(r, cpus);
    let local = r.value(&t::ORIGINAL_DST, ORIGINAL_DST);
    let explicit = r.value(&t::EXPLICIT, form::BOOL);
    let snapshot = r.optional(&t::SNAPSHOT, form::PATH);
    let outbound = outbound(r);
    let outbound_listen = outbound_listen(r);
    // Connections share HTTP's queue; the values are checked all the same.
    let outbound_tcp = queue(r, &t::OUTBOUND_TCP_QUEUE, &t::OUTBOUND_TCP_FAILFAST);
    let quiet = r.value(&t::QUIET, form::BOOL);
    let stream_window = r.value(&t::H2_STREAM_WINDOW, WINDOW);
    let connection_window = r.value(&t::H2_CONNECTION_WINDOW, WINDOW);
    let inbound = inbound(r);
    let inbound_listen = r.value(&t::INBOUND_LISTEN_ADDR, form::SOCKET);
    let policy = inbound_policy(r);
    let control = control(r);
    let identity = identity(r);
    outbound_tcp?;
    let unredirected = pod.interception == Interception::None;
    Ok(Settings {
        log: (log?, json?),
        admin: admin?,
        shutdown_endpoint: shutdown_endpoint?,
        grace: grace?,
        retain_idle: retain_idle?,
        workers,
        local_original_dst: local? || unredirected,
        explicit: explicit? || unredirected,
        snapshot: snapshot?,
        outbound: outbound?,
        outbound_listen: outbound_listen?,
        quiet: quiet?,
        h2_windows: (stream_window?, connection_window?),
        inbound: inbound?,
        inbound_listen: inbound_listen?,
        policy: policy?,
        control: control?,
        identity: identity?,
    })
}

/// Bad numbers of workers are warned about and passed over, as Linkerd's proxy does.
fn workers(r: &mut Reader<'_>, cpus: usize) -> usize {
    let mut count = |row: &Setting| match r.optional(row, form::TEXT) {
        Ok(Some(text)) => {
            let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
            if number.is_none() {
                tracing::warn!(
                    name = row.name,
                    value = text,
                    "Not a number of workers; passed over"
                );
            }
            number
        }
        _ => None,
    };
    let least = count(&t::CORES_MIN).or_else(|| count(&t::CORES)).unwrap_or(1.0);
    let ratio = count(&t::CORES_MAX_RATIO).filter(|r| *r <= 1.0).map(|r| (r * cpus as f64).round());
    let most = count(&t::CORES_MAX).or(ratio).unwrap_or(1.0);
    (least.max(most) as usize).clamp(1, cpus.max(1))
}

fn outbound(r: &mut Reader<'_>) -> Result<Direction, Reported> {
    let ping = ping(r, &t::OUTBOUND_PING_INTERVAL, &t::OUTBOUND_PING_TIMEOUT);
    let backoff = backoff(
        r,
        [&t::OUTBOUND_BACKOFF_MIN, &t::OUTBOUND_BACKOFF_MAX, &t::OUTBOUND_BACKOFF_JITTER],
        Duration::from_secs(60),
    );
    let detect_timeout = r.value(&t::OUTBOUND_DETECT_TIMEOUT, form::DURATION);
    let connect_timeout = r.value(&t::OUTBOUND_CONNECT_TIMEOUT, form::DURATION);
    let http = queue(r, &t::OUTBOUND_HTTP_QUEUE, &t::OUTBOUND_HTTP_FAILFAST);
    let max_in_flight = r.value(&t::OUTBOUND_MAX_IN_FLIGHT, form::COUNT);
    let discovery_idle = r.value(&t::OUTBOUND_DISCOVERY_IDLE, form::DURATION);
    let max_idle_conns = r.value(&t::OUTBOUND_MAX_IDLE_CONNS, form::COUNT);
    let h1_idle = r.value(&t::OUTBOUND_H1_IDLE, form::DURATION);
    let accept = tcp(r, &t::OUTBOUND_ACCEPT_KEEPALIVE, &t::OUTBOUND_ACCEPT_USER_TIMEOUT);
    let connect = tcp(r, &t::OUTBOUND_CONNECT_KEEPALIVE, &t::OUTBOUND_CONNECT_USER_TIMEOUT);
    let backlog = r.optional(&t::OUTBOUND_BACKLOG, WINDOW);
    Ok(Direction {
        detect_timeout: detect_timeout?,
        connect_timeout: connect_timeout?,
        backoff: backoff?,
        http: http?,
        max_in_flight: max_in_flight?,
        discovery_idle: discovery_idle?,
        max_idle_conns: max_idle_conns?,
        h1_idle: h1_idle?,
        accept: accept?,
        connect: connect?,
        backlog: backlog?,
        ping: ping?,
    })
}

fn inbound(r: &mut Reader<'_>) -> Result<Direction, Reported> {
    let ping = ping(r, &t::INBOUND_PING_INTERVAL, &t::INBOUND_PING_TIMEOUT);
    let backoff = backoff(
        r,
        [&t::INBOUND_BACKOFF_MIN, &t::INBOUND_BACKOFF_MAX, &t::INBOUND_BACKOFF_JITTER],
        Duration::from_secs(10),
    );
    let detect_timeout = r.value(&t::INBOUND_DETECT_TIMEOUT, form::DURATION);
    let connect_timeout = r.value(&t::INBOUND_CONNECT_TIMEOUT, form::DURATION);
    let http = queue(r, &t::INBOUND_HTTP_QUEUE, &t::INBOUND_HTTP_FAILFAST);
    let max_in_flight = r.value(&t::INBOUND_MAX_IN_FLIGHT, form::COUNT);
    let discovery_idle = r.value(&t::INBOUND_DISCOVERY_IDLE, form::DURATION);
    let max_idle_conns = r.value(&t::INBOUND_MAX_IDLE_CONNS, form::COUNT);
    let h1_idle = r.value(&t::INBOUND_H1_IDLE, form::DURATION);
    let accept = tcp(r, &t::INBOUND_ACCEPT_KEEPALIVE, &t::INBOUND_ACCEPT_USER_TIMEOUT);
    let connect = tcp(r, &t::INBOUND_CONNECT_KEEPALIVE, &t::INBOUND_CONNECT_USER_TIMEOUT);
    let backlog = r.optional(&t::INBOUND_BACKLOG, WINDOW);
    Ok(Direction {
        detect_timeout: detect_timeout?,
        connect_timeout: connect_timeout?,
        backoff: backoff?,
        http: http?,
        max_in_flight: max_in_flight?,
        discovery_idle: discovery_idle?,
        max_idle_conns: max_idle_conns?,
        h1_idle: h1_idle?,
        accept: accept?,
        connect: connect?,
        backlog: backlog?,
        ping: ping?,
    })
}

fn outbound_listen(r: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Reported> {
    let several = r.optional(&t::OUTBOUND_LISTEN_ADDRS, ADDRS);
    let one = r.value(&t::OUTBOUND_LISTEN_ADDR, form::SOCKET);
    Ok(several?.unwrap_or(vec![one?]))
}

fn queue(r: &mut Reader<'_>, capacity: &Setting, failfast: &Setting) -> Result<Queue, Reported> {
    let capacity = r.value(capacity, form::COUNT);
    let failfast = r.value(failfast, form::DURATION);
    Ok(Queue { capacity: capacity?, failfast: failfast? })
}

fn tcp(r: &mut Reader<'_>, keepalive: &Setting, user_timeout: &Setting) -> Result<Tcp, Reported> {
    let keepalive = r.optional(keepalive, form::DURATION);
    let user_timeout = r.optional(user_timeout, form::DURATION);
    Ok(Tcp { keepalive: keepalive?, user_timeout: user_timeout? })
}

fn ping(
    r: &mut Reader<'_>,
    interval: &Setting,
    timeout: &Setting,
) -> Result<Option<(Duration, Duration)>, Reported> {
    let interval = r.optional(interval, form::DURATION);
    let timeout = r.optional(timeout, form::DURATION);
    Ok(interval?.zip(timeout?))
}

/// MIN and MAX are set together; without them 100 ms to `default_max` with a jitter of .1.
fn backoff(
    r: &mut Reader<'_>,
    rows: [&Setting; 3],
    default_max: Duration,
) -> Result<Backoff, Reported> {
    let min = r.optional(rows[0], form::DURATION);
    let max = r.optional(rows[1], form::DURATION);
    let jitter = r.optional(rows[2], form::RATIO);
    let (min, max, jitter) = (min?, max?, jitter?);
    match (min, max) {
        (None, None) => Ok(Backoff {
            min: Duration::from_millis(100),
            max: default_max,
            jitter: jitter.unwrap_or(0.1),
        }),
        (Some(min), Some(max)) if min <= max && !max.is_zero() => {
            Ok(Backoff { min, max, jitter: jitter.unwrap_or(0.0) })
        }
        _ => Err(r.report(Problem::Invalid {
            name: format!("{} and {}", rows[0].name, rows[1].name),
            value: format!("{min:?} and {max:?}"),
            expected: "both or neither, the first not longer than the second, which is not 0"
                .to_owned(),
        })),
    }
}

fn inbound_policy(r: &mut Reader<'_>) -> Result<InboundPolicy, Reported> {
    let default = r.value(&t::INBOUND_DEFAULT_POLICY, DEFAULT_POLICY);
    let ports = r.value(&t::INBOUND_PORTS, form::PORTS);
    let opaque = r.value(&t::INBOUND_OPAQUE_PORTS, form::PORTS);
    let ips = r.value(&t::INBOUND_IPS, form::IPS);
    let networks = r.value(&t::CLUSTER_NETWORKS, form::NETWORKS);
    let suffixes = r.value(&t::INBOUND_GATEWAY_SUFFIXES, form::SUFFIXES);
    let (default, cluster_networks) = (default?, networks?);
    if cluster_networks.is_empty() && default.starts_with("cluster-") {
        return Err(r.report(Problem::Missing {
            name: t::CLUSTER_NETWORKS.name.to_owned(),
            doc: format!("the default policy {default} needs it"),
        }));
    }
    Ok(InboundPolicy {
        default,
        ports: ports?,
        opaque: opaque?,
        ips: ips?,
        cluster_networks,
        gateway_suffixes: suffixes?,
    })
}

fn control(r: &mut Reader<'_>) -> Result<Control, Reported> {
    let destination = service(r, &t::DESTINATION_SVC_ADDR, &t::DESTINATION_SVC_NAME);
    let policy = service(r, &t::POLICY_SVC_ADDR, &t::POLICY_SVC_NAME);
    let identity = service(r, &t::IDENTITY_SVC_ADDR, &t::IDENTITY_SVC_NAME);
    let context = r.value(&t::DESTINATION_CONTEXT, form::TEXT);
    let workload = r.value(&t::POLICY_WORKLOAD, form::NON_EMPTY);
    let networks = r.value(&t::PROFILE_NETWORKS, form::NETWORKS);
    let suffixes = r.value(&t::PROFILE_SUFFIXES, form::SUFFIXES);
    let streams = [&t::STREAM_INITIAL, &t::STREAM_IDLE, &t::STREAM_LIFETIME]
        .map(|row| r.optional(row, form::DURATION));
    let [initial, idle, lifetime] = streams;
    let streams = [initial?, idle?, lifetime?];
    let given: Vec<Duration> = streams.iter().flatten().copied().collect();
    if !given.is_sorted() {
        return Err(r.report(Problem::Invalid {
            name: "LINKERD2_PROXY_CONTROL_STREAM_*".to_owned(),
            value: format!("{given:?}"),
            expected:
                "INITIAL_TIMEOUT not longer than IDLE_TIMEOUT, and that not longer than LIFETIME"
                    .to_owned(),
        }));
    }
    Ok(Control {
        destination: destination?,
        policy: policy?,
        identity: identity?,
        context: context?,
        workload: workload?,
        profile_networks: networks?,
        profile_suffixes: suffixes?,
        streams,
    })
}

/// Address and name come as a pair, unless the address is loopback.
fn service(r: &mut Reader<'_>, addr: &Setting, name: &Setting) -> Result<Service, Reported> {
    let read = r.value(addr, form::CONTROL_ADDR);
    let named = r.optional(name, form::IDENTITY);
    let service = Service { addr: read?, name: named? };
    let loopback = match &service.addr {
        Authority::Socket(addr) => addr.ip().is_loopback(),
        Authority::Name(name) => name.name.as_str() == "localhost",
    };
    if service.name.is_none() && !loopback {
        return Err(
            r.report(Problem::Missing { name: name.name.to_owned(), doc: name.doc.to_owned() })
        );
    }
    Ok(service)
}

fn identity(r: &mut Reader<'_>) -> Result<IdentitySettings, Reported> {
    let dir = r.value(&t::IDENTITY_DIR, form::PATH);
    let anchors = r.value(&t::IDENTITY_TRUST_ANCHORS, form::NON_EMPTY);
    let token_file = r.value(&t::IDENTITY_TOKEN_FILE, form::PATH);
    let local = r.optional(&t::IDENTITY_LOCAL_NAME, form::IDENTITY);
    let id = r.optional(&t::IDENTITY_SERVER_ID, form::IDENTITY);
    let min = r.value(&t::IDENTITY_MIN_REFRESH, form::DURATION);
    let max = r.value(&t::IDENTITY_MAX_REFRESH, form::DURATION);
    let disabled = r.value(&t::IDENTITY_DISABLED, NOTHING);
    let name = match local?.or(id?) {
        Some(name) => name,
        None => {
            let row = &t::IDENTITY_LOCAL_NAME;
            return Err(
                r.report(Problem::Missing { name: row.name.to_owned(), doc: row.doc.to_owned() })
            );
        }
    };
    disabled?;
    Ok(IdentitySettings {
        dir: dir?,
        anchors: anchors?,
        token_file: token_file?,
        name,
        refresh: (min?, max?),
    })
}

const ORIGINAL_DST: Form<bool> = Form::new("`redirect` or `local`", |text| match text {
    "redirect" => Some(false),
    "local" => Some(true),
    _ => None,
});
const WINDOW: Form<u32> = Form::new("a whole number", |text| text.parse().ok());
const NOTHING: Form<()> = Form::new("no value", |text| text.is_empty().then_some(()));
const ADDRS: Form<Vec<SocketAddr>> =
    Form::new("one or two of ip:port, with a comma between", |text| {
        let addrs: Vec<SocketAddr> =
            text.split(',').map(|a| a.trim().parse().ok()).collect::<Option<_>>()?;
        (1..=2).contains(&addrs.len()).then_some(addrs)
    });
const DEFAULT_POLICY: Form<String> =
    Form::new("deny, audit, or all- or cluster- with authenticated or unauthenticated", |text| {
        let known = [
            "deny",
            "audit",
            "all-authenticated",
            "all-unauthenticated",
            "cluster-authenticated",
            "cluster-unauthenticated",
        ];
        known.contains(&text).then(|| text.to_owned())
    });

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal(name: &str) -> Option<String> {
        Some(match name.strip_prefix("LINKERD2_PROXY_")? {
            "DESTINATION_SVC_ADDR" => "linkerd-dst.linkerd.svc.cluster.local.:8086".into(),
            "POLICY_SVC_ADDR" => "linkerd-policy.linkerd.svc.cluster.local.:8090".into(),
            "DESTINATION_SVC_NAME" | "POLICY_SVC_NAME" => "linkerd-destination.linkerd".into(),
            "IDENTITY_SVC_ADDR" => "localhost.:8080".into(),
            "POLICY_WORKLOAD" => "{}".into(),
            "IDENTITY_DIR" => "/id".into(),
            "IDENTITY_TRUST_ANCHORS" => "pem".into(),
            "IDENTITY_TOKEN_FILE" => "/token".into(),
            "IDENTITY_LOCAL_NAME" => "web.demo".into(),
            "CONTROL_STREAM_IDLE_TIMEOUT" => String::new(),
            _ => return None,
        })
    }

    fn read(change: impl Fn(&str) -> Option<&'static str>) -> Result<Settings, BadSettings> {
        Settings::read(
            |name| change(name).map(str::to_owned).or_else(|| minimal(name)),
            &PodContext::default(),
            4,
        )
    }

    #[test]
    fn defaults_are_linkerds() {
        // proves: SET-2
        let settings = read(|_| None).unwrap();
        assert_eq!(settings.outbound_listen, ["127.0.0.1:4140".parse().unwrap()]);
        assert_eq!(settings.outbound.connect_timeout, Duration::from_secs(1));
        assert_eq!(settings.inbound.connect_timeout, Duration::from_millis(300));
        assert_eq!(settings.outbound.backoff.max, Duration::from_secs(60));
        assert_eq!(
            (settings.workers, settings.explicit, settings.local_original_dst),
            (1, false, false)
        );
        assert_eq!(settings.control.identity.name, None);
    }

    #[test]
    fn every_bad_value_is_told() {
        let error = read(|name| match name {
            "LINKERD2_PROXY_INBOUND_LISTEN_ADDR" => Some("4143"),
            "LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT" => Some("1.5s"),
            "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY" => Some("cluster-authenticated"),
            "LINKERD2_PROXY_POLICY_SVC_NAME" => Some(""),
            "LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MIN" => Some("1s"),
            "LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT" => Some("10s"),
            "LINKERD2_PROXY_CONTROL_STREAM_LIFETIME" => Some("5s"),
            "LINKERD2_PROXY_IDENTITY_DISABLED" => Some("1"),
            _ => None,
        })
        .unwrap_err();
        assert_eq!(error.0.len(), 7, "{error}");
    }

    #[test]
    fn workers_follow_the_cpus() {
        let of = |change: &'static [(&'static str, &'static str)]| {
            read(|name| {
                change.iter().find(|(n, _)| name == format!("LINKERD2_PROXY_{n}")).map(|(_, v)| *v)
            })
            .unwrap()
            .workers
        };
        assert_eq!(of(&[("CORES", "2")]), 2);
        assert_eq!(of(&[("CORES_MIN", "2"), ("CORES_MAX", "9")]), 4);
        assert_eq!(of(&[("CORES_MAX_RATIO", "0.5")]), 2);
        assert_eq!(of(&[("CORES_MAX", "x")]), 1);
    }

    #[test]
    fn without_interception_the_proxy_is_explicit() {
        let pod = PodContext { interception: Interception::None, ..PodContext::default() };
        let settings = Settings::read(minimal, &pod, 1).unwrap();
        assert!(settings.explicit && settings.local_original_dst);
    }
}
