//! # Settings
//!
//! Job: the flags of Linkerd's service mirror, and the variables with which a process proves who it is.
//! May touch: the settings table. Must not touch: what the settings lead to.
//! Callers: `lib.rs`.

use mesh_model::{authority::Authority, identity::DnsName};
use mesh_process::settings::{BadSettings, Reader, Reported, Setting, form};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

/// All settings of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Namespace whose Links are served.
    pub namespace: String,
    /// Serve this Link only.
    pub link: Option<String>,
    /// Where metrics and readiness are served.
    pub admin: SocketAddr,
    /// Create a namespace that an exported Service needs.
    pub create_namespaces: bool,
    /// Kubeconfig instead of the Pod's mounted credentials.
    pub kubeconfig: Option<PathBuf>,
    /// Log filter.
    pub log_level: String,
    /// Logs as JSON lines.
    pub log_json: bool,
    /// The Pod's name: who holds Leases.
    pub pod_name: String,
    /// How we get a certificate; without one gateways cannot be probed.
    pub identity: Option<IdentityConfig>,
}

macro_rules! ignored {
    ($name:literal, $doc:literal) => {
        Setting::new($name, $doc).ignored()
    };
}

const NAMESPACE: Setting = Setting::new("namespace", "Namespace whose Links are served")
    .default("linkerd-multicluster")
    .empty_is_unset();
const METRICS_ADDR: Setting =
    Setting::new("metrics-addr", "Address of /metrics, /ping and /ready").default(":9999");
const CREATE_NAMESPACES: Setting =
    Setting::new("enable-namespace-creation", "Create namespaces that exported Services need")
        .default("false")
        .switch();
const KUBECONFIG: Setting =
    Setting::new("kubeconfig", "Kubeconfig instead of the Pod's credentials").empty_is_unset();
const LOG_LEVEL: Setting =
    Setting::new("log-level", "panic, fatal, error, warn, info, debug or trace").default("info");
const LOG_FORMAT: Setting = Setting::new("log-format", "plain or json").default("plain");

/// The flags, in the order of the reference page.
pub const FLAGS: &[Setting] = &[
    NAMESPACE,
    METRICS_ADDR,
    CREATE_NAMESPACES,
    KUBECONFIG,
    LOG_LEVEL,
    LOG_FORMAT,
    ignored!("event-requeue-limit", "Work is retried until it lands"),
    ignored!("endpoint-refresh-period", "Gateway addresses follow DNS"),
    ignored!("probe-service", "The gateway is probed directly"),
    ignored!("enable-headless-services", "Headless Services are mirrored as ordinary ones so far")
        .switch(),
    ignored!("federated-service-selector", "For local members of federated Services, later"),
    ignored!("excluded-annotations", "For local members of federated Services, later"),
    ignored!("excluded-labels", "For local members of federated Services, later"),
    ignored!("enable-pprof", "There is no such endpoint").switch(),
    ignored!("trace-collector", "Traces are not sent"),
];

/// Set by Kubernetes to the Pod's name.
const HOSTNAME: Setting =
    Setting::new("HOSTNAME", "The Pod's name, which holds Leases").empty_is_unset();
/// Set by our chart to the Pod's name.
const POD_NAME: Setting =
    Setting::new("_pod_name", "The Pod's name, which holds Leases; before HOSTNAME")
        .empty_is_unset();

/// As a sidecar is told who it is.
const LOCAL_NAME: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "Our mesh identity").empty_is_unset();
const SVC_ADDR: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "host:port of the identity service")
        .empty_is_unset();
const SVC_NAME: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_SVC_NAME", "Identity of the identity service")
        .empty_is_unset();
const ANCHORS: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "Trust anchors, PEM").empty_is_unset();
const TOKEN_FILE: Setting = Setting::new(
    "LINKERD2_PROXY_IDENTITY_TOKEN_FILE",
    "Service account token for the identity service",
)
.empty_is_unset();
const DIR: Setting =
    Setting::new("LINKERD2_PROXY_IDENTITY_DIR", "Keys are kept in memory").ignored();

/// The variables, in the order of the reference page.
pub const VARIABLES: &[Setting] =
    &[POD_NAME, HOSTNAME, LOCAL_NAME, SVC_ADDR, SVC_NAME, ANCHORS, TOKEN_FILE, DIR];

/// How the process gets a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Who we are.
    pub local: DnsName,
    /// Where the identity service is.
    pub service: Authority,
    /// Who the identity service is.
    pub service_name: DnsName,
    /// Whom we trust, PEM.
    pub anchors: String,
    /// The token that proves who we are.
    pub token_file: PathBuf,
}

impl IdentityConfig {
    /// `None` if no identity is configured at all, as when a sidecar stands in front.
    fn parse(reader: &mut Reader<'_>) -> Result<Option<Self>, Reported> {
        let Some(local) = reader.optional(&LOCAL_NAME, form::DNS_NAME)? else { return Ok(None) };
        let service = reader.value(&SVC_ADDR, form::CONTROL_ADDR);
        let service_name = reader.value(&SVC_NAME, form::DNS_NAME);
        let anchors = reader.value(&ANCHORS, form::NON_EMPTY);
        let token_file = reader.value(&TOKEN_FILE, form::PATH);
        Ok(Some(Self {
            local,
            service: service?,
            service_name: service_name?,
            anchors: anchors?,
            token_file: token_file?,
        }))
    }
}

impl Config {
    /// Reads flags (Go-style, one or two dashes; `service-mirror` before and a Link's name after them)
    /// and variables.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn parse(
        args: &[OsString],
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadSettings> {
        let args = args.strip_prefix(&["service-mirror".into()]).unwrap_or(args);
        let (flags, link) = without_link(args);
        let mut reader = Reader::from_flags(&[FLAGS], &flags);
        let namespace = reader.value(&NAMESPACE, form::NON_EMPTY);
        let admin = reader.value(&METRICS_ADDR, form::GO_LISTEN);
        let create_namespaces = reader.value(&CREATE_NAMESPACES, form::BOOL);
        let kubeconfig = reader.optional(&KUBECONFIG, form::PATH);
        let log_level = reader.value(&LOG_LEVEL, form::NON_EMPTY);
        let log_json = reader.value(&LOG_FORMAT, form::LOG_FORMAT);
        let mut problems = reader.finish().err().map(|b| b.0).unwrap_or_default();
        let mut variables = Reader::from_lookup(&[VARIABLES], lookup);
        let pod_name = match variables.optional(&POD_NAME, form::NON_EMPTY) {
            Ok(Some(name)) => Ok(name),
            _ => variables.value(&HOSTNAME, form::NON_EMPTY),
        };
        let identity = IdentityConfig::parse(&mut variables);
        problems.extend(variables.finish().err().map(|b| b.0).unwrap_or_default());
        if !problems.is_empty() {
            return Err(BadSettings(problems));
        }
        Ok(Self {
            namespace: namespace?,
            link,
            admin: admin?,
            create_namespaces: create_namespaces?,
            kubeconfig: kubeconfig?,
            log_level: log_level?,
            log_json: log_json?,
            pod_name: pod_name?,
            identity: identity?,
        })
    }
}

/// Takes the Link's name off the end: the last word, unless it is a flag or a flag's value.
fn without_link(args: &[OsString]) -> (Vec<OsString>, Option<String>) {
    let Some((last, rest)) = args.split_last() else { return (Vec::new(), None) };
    let is_flag = |word: &OsString| word.to_string_lossy().starts_with('-');
    let takes_value = |word: &OsString| {
        let text = word.to_string_lossy();
        let name = text.trim_start_matches('-');
        is_flag(word) && !name.contains('=') && !FLAGS.iter().any(|f| f.name == name && f.switch)
    };
    match last.to_str() {
        Some(name)
            if !is_flag(last) && !name.is_empty() && !rest.last().is_some_and(takes_value) =>
        {
            (rest.to_vec(), Some(name.to_owned()))
        }
        _ => (args.to_vec(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Config, BadSettings> {
        let args: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        Config::parse(&args, |name| (name == "HOSTNAME").then(|| "pod-1".into()))
    }

    // proves: MIR-1
    #[test]
    fn linkerds_own_command_line_is_understood() {
        let config = parse(
            "service-mirror -log-level=info -log-format=plain -event-requeue-limit=3 -namespace=mc \
             -metrics-addr=:9999 -enable-headless-services -probe-service=probe-east east",
        )
        .unwrap();
        assert_eq!((config.link.as_deref(), config.namespace.as_str()), (Some("east"), "mc"));
        assert_eq!((config.admin.port(), config.pod_name.as_str()), (9999, "pod-1"));
        assert_eq!(parse("--namespace mc").unwrap().link, None);
        assert_eq!(parse("-enable-namespace-creation west").unwrap().link.as_deref(), Some("west"));
    }

    #[test]
    fn everything_wrong_is_reported_together() {
        let error = Config::parse(
            &["-metrics-addr=x".into(), "-nope".into(), "-log-format=xml".into()],
            |_| None,
        )
        .unwrap_err()
        .to_string();
        for part in ["metrics-addr", "nope", "log-format", "HOSTNAME"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
