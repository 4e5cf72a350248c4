//! # Settings of the destination service
//!
//! Job: Linkerd's flags as rows, and the typed configuration that they make.
//! May touch: values. Must not touch: the command line itself (`controller` reads it).
//! Callers: `controller`.

use mesh_model::{endpoint::Http2Params, ports::PortSet};
use mesh_process::settings::{Form, Reader, Reported, Setting, form};
use std::net::SocketAddr;

/// What the service needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the gRPC server listens.
    pub addr: SocketAddr,
    /// Where the admin server listens.
    pub metrics_addr: SocketAddr,
    /// Namespace of this control plane.
    pub controller_namespace: String,
    /// Last part of identities; without it no endpoint has one.
    pub trust_domain: Option<String>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// All meshed endpoints are reached at the proxy's port with a transport header.
    pub transport_header: bool,
    /// Clients are told to carry HTTP over HTTP/2 between proxies.
    pub enable_h2_upgrade: bool,
    /// IPv6 endpoints are offered, and preferred.
    pub enable_ipv6: bool,
    /// Opaque ports of Services and Pods without the annotation.
    pub default_opaque_ports: PortSet,
    /// HTTP/2 settings for meshed endpoints.
    pub meshed_http2: Http2Params,
    /// Endpoints in the client's zone weigh ten times as much.
    pub zone_weights: bool,
}

const ADDR: Setting = Setting::new("addr", "where the gRPC server listens").default(":8086");
const METRICS_ADDR: Setting =
    Setting::new("metrics-addr", "where the admin server listens").default(":9996");
const NAMESPACE: Setting =
    Setting::new("controller-namespace", "namespace of the control plane").default("linkerd");
const TRANSPORT_MODE: Setting = Setting::new(
    "outbound-transport-mode",
    "`transport-header` sends meshed traffic to the proxy's port; anything else is `transparent`",
)
.default("transparent");
const H2_UPGRADE: Setting =
    Setting::new("enable-h2-upgrade", "carry HTTP over HTTP/2 between proxies")
        .default("true")
        .switch();
const SLICES: Setting = Setting::new("enable-endpoint-slices", "slices are always read")
    .default("true")
    .switch()
    .ignored();
const IPV6: Setting =
    Setting::new("enable-ipv6", "offer IPv6 endpoints and prefer them").default("true").switch();
const TRUST_DOMAIN: Setting =
    Setting::new("identity-trust-domain", "last part of workload identities").empty_is_unset();
const CLUSTER_DOMAIN: Setting = Setting::new("cluster-domain", "DNS domain of the cluster")
    .default("cluster.local")
    .empty_is_unset();
const OPAQUE_PORTS: Setting = Setting::new(
    "default-opaque-ports",
    "ports that are opaque where no annotation says otherwise",
)
.default("");
const QUEUE_METRICS: Setting = Setting::new(
    "export-queue-metrics",
    "streams have no queues: a slow client gets the sum of what it missed",
)
.default("true")
.switch()
.ignored();
const QUEUE_CAPACITY: Setting =
    Setting::new("stream-queue-capacity", "see export-queue-metrics").default("100").ignored();
const ZONE_WEIGHTS: Setting = Setting::new(
    "ext-endpoint-zone-weights",
    "endpoints in the client's zone weigh ten times as much",
)
.default("false")
.switch();
const HTTP2_PARAMS: Setting = Setting::new(
    "meshed-http2-client-params",
    "HTTP/2 settings for meshed endpoints, as JSON of Http2ClientParams",
)
.default("{}")
.empty_is_unset();

/// The service's own rows; flags that all controllers share (`log-level`, `kubeconfig`, ...) are the
/// binary's.
pub const TABLE: &[Setting] = &[
    ADDR,
    METRICS_ADDR,
    NAMESPACE,
    TRANSPORT_MODE,
    H2_UPGRADE,
    SLICES,
    IPV6,
    TRUST_DOMAIN,
    CLUSTER_DOMAIN,
    OPAQUE_PORTS,
    QUEUE_METRICS,
    QUEUE_CAPACITY,
    ZONE_WEIGHTS,
    HTTP2_PARAMS,
];

const HTTP2_FORM: Form<Http2Params> = Form::new(
    "JSON such as {\"keep_alive\":{\"interval\":{\"seconds\":5},\"timeout\":{\"seconds\":3}}}",
    |t| mesh_wire::destination::http2_from_json(t).ok(),
);

impl Config {
    /// Reads the rows of [`TABLE`]; problems stay in the reader.
    ///
    /// # Errors
    /// When any value is bad; the reader knows which.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Reported> {
        let addr = reader.value(&ADDR, form::GO_LISTEN);
        let metrics_addr = reader.value(&METRICS_ADDR, form::GO_LISTEN);
        let namespace = reader.value(&NAMESPACE, form::NON_EMPTY);
        let mode = reader.value(&TRANSPORT_MODE, form::TEXT);
        let h2 = reader.value(&H2_UPGRADE, form::BOOL);
        let ipv6 = reader.value(&IPV6, form::BOOL);
        let trust_domain = reader.optional(&TRUST_DOMAIN, form::DNS_NAME);
        let cluster_domain = reader.value(&CLUSTER_DOMAIN, form::DNS_NAME);
        let opaque = reader.value(&OPAQUE_PORTS, form::PORTS);
        let weights = reader.value(&ZONE_WEIGHTS, form::BOOL);
        let http2 = reader.value(&HTTP2_PARAMS, HTTP2_FORM);
        Ok(Self {
            addr: addr?,
            metrics_addr: metrics_addr?,
            controller_namespace: namespace?,
            trust_domain: trust_domain?.map(|d| d.as_str().to_owned()),
            cluster_domain: cluster_domain?.as_str().to_owned(),
            transport_header: mode? == "transport-header",
            enable_h2_upgrade: h2?,
            enable_ipv6: ipv6?,
            default_opaque_ports: opaque?,
            meshed_http2: http2?,
            zone_weights: weights?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn read(args: &[&str]) -> Result<Config, mesh_process::settings::BadSettings> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let tables: &[&[Setting]] = &[TABLE];
        let mut reader = Reader::from_flags(tables, &args);
        let config = Config::read(&mut reader);
        reader.finish()?;
        Ok(config?)
    }

    #[test]
    fn flags_as_the_chart_passes_them() {
        let config = read(&[
            "-addr=:8086",
            "-controller-namespace=linkerd",
            "-outbound-transport-mode=transport-header",
            "-enable-h2-upgrade=true",
            "-enable-endpoint-slices=true",
            "-cluster-domain=cluster.local",
            "-identity-trust-domain=cluster.local",
            "-default-opaque-ports=25,587",
            "-enable-ipv6=false",
            "--meshed-http2-client-params={\"keep_alive\":{\"interval\":{\"seconds\":5},\"timeout\":{\"seconds\":3},\"while_idle\":true}}",
        ])
        .unwrap();
        assert!(config.transport_header && !config.enable_ipv6);
        assert!(config.default_opaque_ports.contains(587));
        assert_eq!(config.meshed_http2.keep_alive.unwrap().interval.as_secs(), 5);
        assert!(!read(&["-outbound-transport-mode", "other"]).unwrap().transport_header);
    }

    #[test]
    fn bad_values_come_together() {
        let text =
            read(&["-addr=x", "-meshed-http2-client-params=[]", "-nope"]).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
