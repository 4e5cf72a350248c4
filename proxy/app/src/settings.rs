//! # Settings
//!
//! Job: the environment, read once into typed values; all bad ones are reported together.
//! May touch: a lookup of variables. Must not touch: files, sockets: nothing is bound or read here.
//! Callers: `run`; each stack's `Config` is made from its part.

mod direction;
pub(crate) mod table;
mod trace;

pub(crate) use direction::{Backoff, Direction, Queue, Tcp};
pub(crate) use trace::Trace;

use ipnet::IpNet;
use mesh_inbound::access_log::Format;
use mesh_model::{authority::Authority, identity::Identity, ports::PortSet};
use mesh_net::dns::TtlBounds;
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
    /// Whether outbound serves an ingress, whose requests name their targets.
    pub(crate) ingress: bool,
    pub(crate) snapshot: Option<PathBuf>,
    /// Whether, and how, each inbound request is told.
    pub(crate) access_log: Option<Format>,
    pub(crate) dns_ttl: TtlBounds,
    pub(crate) outbound: Direction,
    pub(crate) outbound_tcp: Queue,
    pub(crate) hostname_labels: bool,
    pub(crate) outbound_listen: Vec<SocketAddr>,
    pub(crate) quiet: bool,
    pub(crate) h2_windows: (u32, u32),
    pub(crate) inbound: Direction,
    pub(crate) inbound_listen: SocketAddr,
    pub(crate) policy: InboundPolicy,
    pub(crate) control: Control,
    pub(crate) identity: IdentitySettings,
    pub(crate) trace: Option<Trace>,
    /// What was passed over, to be told once there are logs.
    pub(crate) warnings: Vec<String>,
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
    pub(crate) authority_labels: bool,
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
    let mut warnings = Vec::new();
    let workers = workers(r, cpus, &mut warnings);
    let local = r.value(&t::ORIGINAL_DST, ORIGINAL_DST);
    let explicit = r.value(&t::EXPLICIT, form::BOOL);
    let snapshot = r.optional(&t::SNAPSHOT, form::PATH);
    let access_log = access_log(r, &mut warnings);
    let dns_ttl = dns_ttl(r);
    let unused = unused(r);
    let outbound = direction::read(r, &direction::OUTBOUND);
    let outbound_listen = outbound_listen(r);
    let outbound_tcp = direction::queue(r, &[t::OUTBOUND_TCP_QUEUE, t::OUTBOUND_TCP_FAILFAST]);
    let hostname_labels = r.value(&t::HOSTNAME_LABELS, form::BOOL);
    let ingress = r.value(&t::INGRESS_MODE, form::BOOL);
    let quiet = r.optional(&t::QUIET, form::BOOL);
    let stream_window = r.value(&t::H2_STREAM_WINDOW, direction::WINDOW);
    let connection_window = r.value(&t::H2_CONNECTION_WINDOW, direction::WINDOW);
    let inbound = direction::read(r, &direction::INBOUND);
    let inbound_listen = r.value(&t::INBOUND_LISTEN_ADDR, form::SOCKET);
    let policy = inbound_policy(r);
    let control = control(r);
    let identity = identity(r);
    let trace = trace::read(r);
    unused?;
    let ingress = ingress?;
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
        access_log,
        dns_ttl: dns_ttl?,
        outbound: outbound?,
        outbound_tcp: outbound_tcp?,
        hostname_labels: hostname_labels?,
        outbound_listen: outbound_listen?,
        ingress,
        quiet: quiet?.unwrap_or(ingress),
        h2_windows: (stream_window?, connection_window?),
        inbound: inbound?,
        inbound_listen: inbound_listen?,
        policy: policy?,
        control: control?,
        identity: identity?,
        trace: trace?,
        warnings,
    })
}

/// Bad numbers of workers are warned about and passed over, as Linkerd's proxy does.
fn workers(r: &mut Reader<'_>, cpus: usize, warnings: &mut Vec<String>) -> usize {
    let mut count = |row: &Setting| match r.optional(row, form::TEXT) {
        Ok(Some(text)) => {
            let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
            if number.is_none() {
                warnings.push(format!("{}={text:?} is no number of workers", row.name));
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

/// A bad value is told and passed over: a log that nobody can read is no reason not to serve.
fn access_log(r: &mut Reader<'_>, warnings: &mut Vec<String>) -> Option<Format> {
    let text = r.optional(&t::ACCESS_LOG, form::TEXT).ok()??;
    match text.as_str() {
        "apache" => Some(Format::Apache),
        "json" => Some(Format::Json),
        _ => {
            let name = t::ACCESS_LOG.name;
            warnings.push(format!("{name}={text:?} is neither `apache` nor `json`: no access log"));
            None
        }
    }
}

fn dns_ttl(r: &mut Reader<'_>) -> Result<TtlBounds, Reported> {
    let min = r.optional(&t::DNS_MIN_TTL, form::DURATION);
    let max = r.optional(&t::DNS_MAX_TTL, form::DURATION);
    let (min, max) = (min?, max?);
    match (min, max) {
        (Some(least), Some(most)) if least > most => {
            Err(contradiction(r, [&t::DNS_MIN_TTL, &t::DNS_MAX_TTL], [least, most]))
        }
        _ => Ok(TtlBounds { min, max }),
    }
}

/// The first of two is longer than the second.
fn contradiction(r: &mut Reader<'_>, rows: [&Setting; 2], values: [Duration; 2]) -> Reported {
    r.report(Problem::Invalid {
        name: format!("{} and {}", rows[0].name, rows[1].name),
        value: format!("{:?} and {:?}", values[0], values[1]),
        expected: "the first not longer than the second".to_owned(),
    })
}

/// What this build does not do is checked all the same, so that a typing error is not found only by a
/// later build.
fn unused(r: &mut Reader<'_>) -> Result<(), Reported> {
    let control = r.value(&t::CONTROL_LISTEN_ADDR, form::SOCKET);
    let tap = r.optional(&t::TAP_SVC_NAME, form::IDENTITY);
    let patience = r.value(&t::PROFILE_TIMEOUT, form::DURATION);
    let spire = [&t::SPIRE_ADDR, &t::SPIRE_SOCKET].map(|row| r.optional(row, NOTHING));
    // All are read before the first complaint ends this.
    control?;
    tap?;
    patience?;
    spire.into_iter().try_for_each(|setting| setting.map(drop))
}

fn outbound_listen(r: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Reported> {
    let several = r.optional(&t::OUTBOUND_LISTEN_ADDRS, ADDRS);
    let one = r.value(&t::OUTBOUND_LISTEN_ADDR, form::SOCKET);
    Ok(several?.unwrap_or(vec![one?]))
}

fn inbound_policy(r: &mut Reader<'_>) -> Result<InboundPolicy, Reported> {
    let default = r.value(&t::INBOUND_DEFAULT_POLICY, DEFAULT_POLICY);
    let ports = r.value(&t::INBOUND_PORTS, form::PORTS);
    let opaque = r.value(&t::INBOUND_OPAQUE_PORTS, form::PORTS);
    let ips = r.value(&t::INBOUND_IPS, form::IPS);
    let networks = r.value(&t::CLUSTER_NETWORKS, form::NETWORKS);
    let suffixes = r.value(&t::INBOUND_GATEWAY_SUFFIXES, form::SUFFIXES);
    let authority = r.optional(&t::AUTHORITY_LABELS, UNSAFE);
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
        authority_labels: authority?.is_some(),
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
    let server_name = r.optional(&t::IDENTITY_SERVER_NAME, form::DNS_NAME);
    let min = r.value(&t::IDENTITY_MIN_REFRESH, form::DURATION);
    let max = r.value(&t::IDENTITY_MAX_REFRESH, form::DURATION);
    let disabled = r.value(&t::IDENTITY_DISABLED, NOTHING);
    let (min, max) = (min?, max?);
    if min > max {
        return Err(contradiction(
            r,
            [&t::IDENTITY_MIN_REFRESH, &t::IDENTITY_MAX_REFRESH],
            [min, max],
        ));
    }
    let (local, id, server_name) = (local?, id?, server_name?);
    let wins = local.is_some();
    let name = match local.or(id) {
        Some(name) => name,
        None => {
            let row = &t::IDENTITY_LOCAL_NAME;
            return Err(
                r.report(Problem::Missing { name: row.name.to_owned(), doc: row.doc.to_owned() })
            );
        }
    };
    // With a local name, which wins, the other two are not looked at.
    if let Some(server) = server_name.filter(|_| !wins)
        && server.as_str() != name.as_str()
    {
        return Err(r.report(Problem::Invalid {
            name: t::IDENTITY_SERVER_NAME.name.to_owned(),
            value: server.to_string(),
            expected: format!("the same as {}, {name}", t::IDENTITY_SERVER_ID.name),
        }));
    }
    disabled?;
    Ok(IdentitySettings {
        dir: dir?,
        anchors: anchors?,
        token_file: token_file?,
        name,
        refresh: (min, max),
    })
}

const ORIGINAL_DST: Form<bool> = Form::new("`redirect` or `local`", |text| match text {
    "redirect" => Some(false),
    "local" => Some(true),
    _ => None,
});
const UNSAFE: Form<()> = Form::new("`unsafe`", |text| (text == "unsafe").then_some(()));
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
#[allow(clippy::unwrap_used)]
mod tests;
