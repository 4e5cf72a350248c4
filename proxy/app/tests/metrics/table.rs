//! # The table of families
//!
//! Job: every family that dashboards of Linkerd know, with its type, label names and their order, buckets;
//! what of them is not shown here, and why; families of our own. And the comparison with a scrape.
//! Must not touch: values. Callers: the test of metrics.

use std::collections::BTreeMap;

/// A family.
pub(crate) struct Expected {
    pub(crate) name: &'static str,
    kind: &'static str,
    /// Names in order: `a` must be there, `a?` may, `a_*` any number that begin so.
    labels: &'static str,
    /// Bounds of buckets as shown, without infinity.
    buckets: &'static str,
    /// Whether the traffic of the test makes it appear. The others need a failure, or a policy.
    pub(crate) seen: bool,
}

const fn family(name: &'static str, kind: &'static str, labels: &'static str) -> Expected {
    Expected { name, kind, labels, buckets: "", seen: true }
}

impl Expected {
    const fn buckets(self, buckets: &'static str) -> Self {
        Self { buckets, ..self }
    }

    /// The traffic of the test does not make it appear.
    const fn rare(self) -> Self {
        Self { seen: false, ..self }
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";
const HISTOGRAM: &str = "histogram";

const LATENCY_MS: &str = "1 2 3 4 5 10 20 30 40 50 100 200 300 400 500 1000 2000 3000 4000 5000 \
    10000 20000 30000 40000 50000";
const TLS: &str = "tls client_id? server_id? sni? no_tls_reason?";
const TARGET: &str = "target_addr target_ip target_port";
const SRV: &str = "srv_group srv_kind srv_name srv_port";
const ROUTE: &str = "route_group route_kind route_name";
const AUTHZ: &str = "authz_group authz_kind authz_name";
const ENDPOINT: &str = "direction authority? TARGET TLS SRV? ROUTE? AUTHZ? dst_*";
const TRANSPORT: &str = "direction peer TARGET TLS SRV? dst_*";
const CONTROL: &str = "addr TLS";
const IN_ROUTE: &str = "parent_group parent_kind parent_name parent_port ROUTE";
const PARENT: &str = "parent_group parent_kind parent_namespace parent_name parent_port \
    parent_section_name";
const BACKEND: &str = "backend_group backend_kind backend_namespace backend_name backend_port \
    backend_section_name";
const OUT_ROUTE: &str = "PARENT route_group route_kind route_namespace route_name";

/// Groups that stand for several names; with `?` all or none of them.
const GROUPS: &[(&str, &str)] = &[
    ("TLS", TLS),
    ("TARGET", TARGET),
    ("SRV", SRV),
    ("ROUTE", ROUTE),
    ("AUTHZ", AUTHZ),
    ("PARENT", PARENT),
    ("BACKEND", BACKEND),
    ("OUT_ROUTE", OUT_ROUTE),
];

/// The families of one kind of balancer.
macro_rules! balancer {
    ($prefix:literal, $labels:expr, $with_op:expr, $with_state:expr) => {
        [
            family(concat!($prefix, "_balancer_p2c_endpoints"), GAUGE, $labels),
            family(concat!($prefix, "_balancer_p2c_updates_total"), COUNTER, $with_op),
            family(concat!($prefix, "_balancer_endpoints"), GAUGE, $with_state),
            family(concat!($prefix, "_balancer_queue_length"), GAUGE, $labels),
            family(concat!($prefix, "_balancer_queue_requests_total"), COUNTER, $labels),
            family(concat!($prefix, "_balancer_queue_latency_seconds"), HISTOGRAM, $labels)
                .buckets("0.0005 0.005 0.05 0.5 1.0 3.0"),
            family(concat!($prefix, "_balancer_queue_gate_open_total"), COUNTER, $labels),
            family(concat!($prefix, "_balancer_queue_gate_shut_total"), COUNTER, $labels),
            family(concat!($prefix, "_balancer_queue_gate_open_time_seconds"), GAUGE, $labels),
            family(concat!($prefix, "_balancer_queue_gate_shut_time_seconds"), GAUGE, $labels),
            family(concat!($prefix, "_balancer_queue_gate_timeout_seconds"), GAUGE, $labels),
        ]
    };
}

/// The families of outbound routes of one kind; a request shows them where a policy has routes.
macro_rules! routes {
    ($kind:literal, $status:literal) => {
        [
            family(
                concat!("outbound_", $kind, "_route_request_duration_seconds"),
                HISTOGRAM,
                "OUT_ROUTE hostname?",
            )
            .buckets("0.05 0.5 1.0 10.0")
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_request_statuses_total"),
                COUNTER,
                concat!("OUT_ROUTE hostname? ", $status, " error"),
            )
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_request_frame_size_bytes"),
                HISTOGRAM,
                "OUT_ROUTE hostname?",
            )
            .buckets("128.0 1024.0 10240.0")
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_backend_requests_total"),
                COUNTER,
                "OUT_ROUTE BACKEND",
            )
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_backend_response_duration_seconds"),
                HISTOGRAM,
                "OUT_ROUTE BACKEND",
            )
            .buckets("0.025 0.05 0.1 0.25 0.5 1.0 10.0")
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_backend_response_statuses_total"),
                COUNTER,
                concat!("OUT_ROUTE BACKEND ", $status, " error"),
            )
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_backend_response_frame_size_bytes"),
                HISTOGRAM,
                "OUT_ROUTE BACKEND",
            )
            .buckets("128.0 1024.0 10240.0")
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_retry_requests_total"),
                COUNTER,
                "OUT_ROUTE",
            )
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_retry_successes_total"),
                COUNTER,
                "OUT_ROUTE",
            )
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_retry_limit_exceeded_total"),
                COUNTER,
                "OUT_ROUTE",
            )
            .rare(),
            family(
                concat!("outbound_", $kind, "_route_retry_overflow_total"),
                COUNTER,
                "OUT_ROUTE",
            )
            .rare(),
        ]
    };
}

/// Linkerd's families, by section of its documentation; then ours.
pub(crate) const FAMILIES: &[&[Expected]] = &[
    // Requests by endpoint.
    &[
        family("request_total", COUNTER, ENDPOINT),
        family(
            "response_total",
            COUNTER,
            "direction authority? TARGET TLS SRV? ROUTE? AUTHZ? dst_* status_code classification \
             grpc_status error",
        ),
        family(
            "response_latency_ms",
            HISTOGRAM,
            "direction authority? TARGET TLS SRV? ROUTE? AUTHZ? dst_* status_code",
        )
        .buckets(LATENCY_MS),
    ],
    // Routes of service profiles.
    &[
        family("route_request_total", COUNTER, "direction dst rt_*"),
        family(
            "route_response_total",
            COUNTER,
            "direction dst rt_* status_code classification grpc_status error",
        ),
        family("route_response_latency_ms", HISTOGRAM, "direction dst rt_* status_code")
            .buckets(LATENCY_MS),
        family("route_actual_request_total", COUNTER, "direction dst rt_*").rare(),
        family(
            "route_actual_response_total",
            COUNTER,
            "direction dst rt_* status_code classification grpc_status error",
        )
        .rare(),
        // Linkerd has no latency of attempts.
        family("route_actual_response_latency_ms", HISTOGRAM, "direction dst rt_* status_code")
            .buckets(LATENCY_MS)
            .rare(),
        family("route_retryable_total", COUNTER, "direction dst rt_* skipped").rare(),
    ],
    // Control plane.
    &[
        family("control_request_total", COUNTER, CONTROL),
        family(
            "control_response_total",
            COUNTER,
            "addr TLS status_code classification grpc_status error",
        ),
        family("control_response_latency_ms", HISTOGRAM, "addr TLS status_code")
            .buckets(LATENCY_MS),
    ],
    // Transports and stacks.
    &[
        family("tcp_open_total", COUNTER, TRANSPORT),
        family("tcp_open_connections", GAUGE, TRANSPORT),
        family("tcp_read_bytes_total", COUNTER, TRANSPORT),
        family("tcp_write_bytes_total", COUNTER, TRANSPORT),
        family("tcp_close_total", COUNTER, "direction peer TARGET TLS SRV? dst_* errno"),
        family("stack_create_total", COUNTER, "direction protocol name"),
        family("stack_drop_total", COUNTER, "direction protocol name"),
    ],
    // Errors and authorisation.
    &[
        family("inbound_http_errors_total", COUNTER, "error TARGET SRV?").rare(),
        family("inbound_tcp_errors_total", COUNTER, "error TARGET SRV?").rare(),
        family("outbound_http_errors_total", COUNTER, "error").rare(),
        family("outbound_tcp_errors_total", COUNTER, "TARGET error").rare(),
        family("inbound_http_authz_allow_total", COUNTER, "TARGET SRV ROUTE? AUTHZ TLS"),
        family("inbound_http_authz_deny_total", COUNTER, "TARGET SRV ROUTE? TLS").rare(),
        family("inbound_http_route_not_found_total", COUNTER, "TARGET SRV TLS").rare(),
        family("inbound_tcp_authz_allow_total", COUNTER, "TARGET SRV AUTHZ TLS"),
        family("inbound_tcp_authz_deny_total", COUNTER, "TARGET SRV TLS").rare(),
        family("inbound_tcp_authz_terminate_total", COUNTER, "TARGET SRV TLS").rare(),
        family(
            "inbound_http_local_ratelimit_total",
            COUNTER,
            "SRV ratelimit_group ratelimit_kind ratelimit_name ratelimit_scope",
        )
        .rare(),
    ],
    // Outbound routes.
    &routes!("http", "http_status"),
    &routes!("grpc", "grpc_status"),
    &[
        family("outbound_tcp_route_open_total", COUNTER, "OUT_ROUTE").rare(),
        family("outbound_tcp_route_close_total", COUNTER, "OUT_ROUTE error").rare(),
        family("outbound_tls_route_open_total", COUNTER, "OUT_ROUTE").rare(),
        family("outbound_tls_route_close_total", COUNTER, "OUT_ROUTE error").rare(),
    ],
    // Inbound routes.
    &[
        family("inbound_http_requests_total", COUNTER, IN_ROUTE).rare(),
        family("inbound_http_statuses_total", COUNTER, IN_ROUTE_STATUS).rare(),
        family("inbound_http_request_duration_seconds", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_http_response_duration_seconds", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_http_request_frame_size_bytes", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_http_response_frame_size_bytes", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_grpc_requests_total", COUNTER, IN_ROUTE).rare(),
        family("inbound_grpc_statuses_total", COUNTER, IN_ROUTE_STATUS).rare(),
        family("inbound_grpc_request_duration_seconds", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_grpc_response_duration_seconds", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_grpc_request_frame_size_bytes", HISTOGRAM, IN_ROUTE).rare(),
        family("inbound_grpc_response_frame_size_bytes", HISTOGRAM, IN_ROUTE).rare(),
    ],
    // Detection and protocols.
    &[
        family("outbound_tcp_protocol_connections_total", COUNTER, "protocol PARENT").rare(),
        // Redirected connections alone are detected.
        family("inbound_tcp_detect_http_results_total", COUNTER, "result").rare(),
        family("inbound_tcp_detect_http_duration_seconds", HISTOGRAM, "")
            .buckets("0.001 0.1")
            .rare(),
        family("outbound_tcp_detect_http_results_total", COUNTER, "result").rare(),
        family("outbound_tcp_detect_http_duration_seconds", HISTOGRAM, "")
            .buckets("0.001 0.1")
            .rare(),
        family("outbound_tcp_transfer_cost_bytes_total", COUNTER, "op zone_locality"),
        family(
            "inbound_tcp_transport_header_connections_total",
            COUNTER,
            "session_protocol target_port target_name client_id",
        ),
    ],
    // Balancers.
    &balancer!(
        "outbound_http",
        "PARENT BACKEND",
        "op PARENT BACKEND",
        "endpoint_state PARENT BACKEND"
    ),
    &balancer!(
        "outbound_tcp",
        "PARENT BACKEND logical concrete",
        "op PARENT BACKEND logical concrete",
        "endpoint_state PARENT BACKEND logical concrete"
    ),
    &balancer!(
        "outbound_tls",
        "PARENT BACKEND logical concrete",
        "op PARENT BACKEND logical concrete",
        "endpoint_state PARENT BACKEND logical concrete"
    ),
    &balancer!("control_identity", "addr", "op addr", "endpoint_state addr"),
    &balancer!("control_destination", "addr", "op addr", "endpoint_state addr"),
    &balancer!("control_policy", "addr", "op addr", "endpoint_state addr"),
    &balancer!("opentelemetry", "addr", "op addr", "endpoint_state addr"),
    // Identity, DNS, process.
    &[
        family("control_identity_cert_expiration_timestamp_seconds", GAUGE, ""),
        family("control_identity_cert_refresh_timestamp_seconds", GAUGE, ""),
        family("control_identity_cert_refreshes_total", COUNTER, "result"),
        // The control plane of the test has no name.
        family("control_dns_resolutions_total", COUNTER, "client record_type result").rare(),
        family("proxy_build_info", GAUGE, "date git_sha profile vendor version"),
        family("rustls_info", GAUGE, "tls_suites tls_kx_groups tls_rand tls_key_provider tls_fips"),
        family("process_start_time_seconds", GAUGE, ""),
        family("process_clock_time_seconds", GAUGE, ""),
        family("process_uptime_seconds_total", COUNTER, ""),
        family("process_cpu_seconds_total", COUNTER, ""),
        family("process_virtual_memory_bytes", GAUGE, ""),
        family("process_resident_memory_bytes", GAUGE, ""),
        family("process_open_fds", GAUGE, ""),
        family("process_max_fds", GAUGE, ""),
        family("process_threads", GAUGE, ""),
        family("process_network_receive_bytes_total", COUNTER, ""),
        family("process_network_transmit_bytes_total", COUNTER, ""),
        family("tokio_rt_workers", GAUGE, ""),
        family("tokio_rt_global_queue_depth", GAUGE, ""),
        family("tokio_rt_park_total", COUNTER, ""),
        family("tokio_rt_busy_seconds_total", COUNTER, ""),
        family("opentelemetry_span_export_streams_total", COUNTER, ""),
        family("opentelemetry_span_export_requests_total", COUNTER, ""),
        family("opentelemetry_span_exports_total", COUNTER, ""),
    ],
    // Ours.
    &[
        family("inbound_direct_refusals_total", COUNTER, "reason").rare(),
        family("gateway_refusals_total", COUNTER, "reason").rare(),
        family("opentelemetry_span_drops_total", COUNTER, "reason"),
        family("tokio_rt_tasks", GAUGE, ""),
        family("proxy_task_panics_total", COUNTER, "task").rare(),
    ],
];

const IN_ROUTE_STATUS: &str = "parent_group parent_kind parent_name parent_port ROUTE status";

/// Begins of names that the traffic of the test does not show: balancers that only connections with TLS of
/// their own need; endpoints of a client that lives only while a certificate is asked for.
pub(crate) const UNSEEN: [&str; 3] = [
    "outbound_tls_balancer_",
    "control_identity_balancer_p2c_endpoints",
    "control_identity_balancer_endpoints",
];

/// Families of Linkerd's proxy that are not shown, and why.
pub(crate) const ABSENT: &[(&str, &str)] = &[
    ("stack_poll_total", "counts polls between layers of a library that this proxy does not use"),
    ("stack_poll_total_ms", "the same"),
    ("tokio_rt_steal*", "a runtime a thread: nothing is stolen"),
    ("tokio_rt_polls*", "the runtime counts them in unstable builds only"),
];

/// Names of the families that a scrape shows.
pub(crate) fn names(text: &str) -> Vec<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Every way in which a scrape is not as the table says.
pub(crate) fn mistakes(text: &str, table: &[&[Expected]]) -> Vec<String> {
    let known: BTreeMap<_, _> =
        table.iter().flat_map(|section| section.iter()).map(|f| (f.name, f)).collect();
    let mut mistakes = Vec::new();
    let mut current = None;
    let mut seen_lines = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = known.get(name).copied();
            match current {
                None => mistakes.push(format!("{name} is not in the table")),
                Some(family) if family.kind != kind => {
                    mistakes.push(format!("{name} is a {kind}, not a {}", family.kind));
                }
                Some(_) => {}
            }
        }
        let (Some(family), false) = (current, line.starts_with('#')) else { continue };
        let series = line.rsplit_once(' ').unwrap().0;
        if !seen_lines.insert(series) {
            mistakes.push(format!("twice: {series}"));
        }
        mistakes.extend(family.wrong(series).map(|why| format!("{why}: {line}")));
    }
    mistakes.sort();
    mistakes.dedup();
    mistakes
}

impl Expected {
    fn wrong(&self, series: &str) -> Option<String> {
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, label_names(rest.strip_suffix('}')?)),
            None => (series, Vec::new()),
        };
        let suffix = name.strip_prefix(self.name)?;
        let right = match self.kind {
            HISTOGRAM => ["_bucket", "_sum", "_count"].contains(&suffix),
            _ => suffix.is_empty(),
        };
        if !right {
            return Some(format!("`{suffix}` behind the name"));
        }
        let mut labels = labels;
        if suffix == "_bucket" {
            let (_, bound) = labels.pop()?;
            let known =
                self.buckets.is_empty() || self.buckets.split_whitespace().any(|b| b == bound);
            if !known && bound != "+Inf" {
                return Some(format!("bucket {bound}"));
            }
        }
        let found: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
        let rest = consume(self.labels, &found);
        (rest != Some(&[][..])).then(|| format!("labels {found:?}, not `{}`", self.labels))
    }
}

/// Takes the names of a pattern from the front; what is left, or `None` if one is missing.
fn consume<'a>(pattern: &str, found: &'a [&'a str]) -> Option<&'a [&'a str]> {
    pattern.split_whitespace().try_fold(found, |found, part| {
        let optional = part.ends_with('?');
        let part = part.trim_end_matches('?');
        if let Some((_, group)) = GROUPS.iter().find(|(name, _)| *name == part) {
            return consume(group, found).or(optional.then_some(found));
        }
        if let Some(prefix) = part.strip_suffix('*') {
            let more = found.iter().take_while(|name| name.starts_with(prefix)).count();
            return Some(&found[more..]);
        }
        match found.split_first() {
            Some((first, rest)) if *first == part => Some(rest),
            _ => optional.then_some(found),
        }
    })
}

/// Names and values, in order.
fn label_names(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut end = 0;
        let bytes = after.as_bytes();
        while bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        labels.push((name.to_owned(), after[..end].to_owned()));
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}
