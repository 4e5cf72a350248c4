//! # Settings as an operator gives them

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

// proves: SET-8
#[test]
fn an_address_goes_with_its_identity() {
    const NAME: &str = "LINKERD2_PROXY_POLICY_SVC_NAME";
    const ADDR: &str = "LINKERD2_PROXY_POLICY_SVC_ADDR";
    let error = Settings::read(
        |name| if name == NAME { None } else { minimal(name) },
        &PodContext::default(),
        1,
    );
    let error = error.unwrap_err();
    assert!(error.to_string().contains("POLICY_SVC"), "{error}");
    let loopback = Settings::read(
        |name| match name {
            NAME => None,
            ADDR => Some("127.0.0.1:8090".to_owned()),
            other => minimal(other),
        },
        &PodContext::default(),
        1,
    );
    assert_eq!(loopback.unwrap().control.policy.name, None);
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

// proves: SET-7
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

/// Name, default, a good value, a bad one (`None`: any text is taken, or a bad one is only warned about).
/// The good values also fit together.
type Row = (&'static str, Option<&'static str>, &'static str, Option<&'static str>);

#[rustfmt::skip]
const EVERY_VARIABLE: &[Row] = &[
    ("LINKERD2_PROXY_LOG", Some("warn,linkerd=info,hickory=error"), "info", None),
    ("LINKERD2_PROXY_LOG_FORMAT", Some("PLAIN"), "json", Some("xml")),
    ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", Some("127.0.0.1:4191"), "127.0.0.1:4000", Some("4000")),
    ("LINKERD2_PROXY_CONTROL_LISTEN_ADDR", Some("0.0.0.0:4190"), "127.0.0.1:4000", Some("4000")),
    ("LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED", Some("false"), "true", Some("yes")),
    ("LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD", Some("2m"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_METRICS_RETAIN_IDLE", Some("10m"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_CORES", None, "2", None),
    ("LINKERD2_PROXY_CORES_MIN", None, "2", None),
    ("LINKERD2_PROXY_CORES_MAX", None, "2", None),
    ("LINKERD2_PROXY_CORES_MAX_RATIO", None, "0.5", None),
    ("LINKERD2_PROXY_ACCESS_LOG", None, "json", None),
    ("LINKERD2_PROXY_TAP_SVC_NAME", None, "tap.viz", Some("no name")),
    ("MESH_ORIGINAL_DST", Some("redirect"), "local", Some("here")),
    ("MESH_EXPLICIT_PROXY", Some("false"), "true", Some("1")),
    ("MESH_SNAPSHOT", None, "/view", None),
    ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS", None, "127.0.0.1:4140,[::1]:4140", Some("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3")),
    ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", Some("127.0.0.1:4140"), "127.0.0.1:4000", Some("4000")),
    ("LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT", Some("10s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", Some("1s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MIN", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MAX", None, "2s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_JITTER", None, "0.5", Some("101")),
    ("LINKERD2_PROXY_OUTBOUND_TCP_QUEUE_CAPACITY", Some("10000"), "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_TCP_FAILFAST_TIMEOUT", Some("3s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_HTTP_QUEUE_CAPACITY", Some("10000"), "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", Some("3s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_MAX_IN_FLIGHT", Some("100000"), "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT", Some("5s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", Some("10000"), "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", Some("3s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_ACCEPT_KEEPALIVE", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_CONNECT_KEEPALIVE", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_ACCEPT_USER_TIMEOUT", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_CONNECT_USER_TIMEOUT", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_TCP_LISTEN_BACKLOG", None, "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", None, "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", None, "16384", Some("16383")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE", None, "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", None, "10", Some("ten")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE", None, "400000", Some("4294967296")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", None, "true", Some("maybe")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", None, "65535", Some("2147483648")),
    ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", None, "65535", Some("2147483648")),
    ("LINKERD2_PROXY_OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", None, "true", Some("TRUE")),
    ("LINKERD2_PROXY_OUTBOUND_METRICS_HOSTNAME_LABELS", Some("false"), "true", Some("on")),
    ("LINKERD2_PROXY_INGRESS_MODE", Some("false"), "true", Some("on")),
    ("LINKERD2_PROXY_HTTP2_INITIAL_STREAM_WINDOW_SIZE", Some("65535"), "70000", Some("4294967295")),
    ("LINKERD2_PROXY_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", Some("1048576"), "70000", Some("-1")),
    ("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", Some("0.0.0.0:4143"), "127.0.0.1:4000", Some("4000")),
    ("LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT", Some("10s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT", Some("300ms"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_CONNECT_EXP_BACKOFF_MIN", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_CONNECT_EXP_BACKOFF_MAX", None, "2s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_CONNECT_EXP_BACKOFF_JITTER", None, "0.5", Some("101")),
    ("LINKERD2_PROXY_INBOUND_HTTP_QUEUE_CAPACITY", Some("10000"), "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_HTTP_FAILFAST_TIMEOUT", Some("1s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_MAX_IN_FLIGHT", Some("100000"), "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_DISCOVERY_IDLE_TIMEOUT", Some("90s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_MAX_IDLE_CONNS_PER_ENDPOINT", Some("10000"), "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", Some("3s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_ACCEPT_KEEPALIVE", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_CONNECT_KEEPALIVE", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_ACCEPT_USER_TIMEOUT", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_CONNECT_USER_TIMEOUT", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_TCP_LISTEN_BACKLOG", None, "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", None, "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", None, "16384", Some("16383")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE", None, "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", None, "10", Some("ten")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE", None, "400000", Some("4294967296")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", None, "true", Some("maybe")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", None, "65535", Some("2147483648")),
    ("LINKERD2_PROXY_INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", None, "65535", Some("2147483648")),
    ("LINKERD2_PROXY_INBOUND_DEFAULT_POLICY", Some("all-unauthenticated"), "audit", Some("allow")),
    ("LINKERD2_PROXY_INBOUND_PORTS", Some(""), "80,90-99", Some("99-90")),
    ("LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", Some(""), "25", Some("25-")),
    ("LINKERD2_PROXY_INBOUND_IPS", Some(""), "10.0.0.1,::1", Some("10.0.0.1, ::1")),
    ("LINKERD2_PROXY_INBOUND_METRICS_AUTHORITY_LABELS", None, "unsafe", Some("safe")),
    ("LINKERD2_PROXY_INBOUND_GATEWAY_SUFFIXES", Some(""), "svc.cluster.local.", Some("-")),
    ("LINKERD2_PROXY_DESTINATION_SVC_ADDR", None, "localhost.:8086", Some("localhost")),
    ("LINKERD2_PROXY_DESTINATION_SVC_NAME", None, "linkerd-x.linkerd", Some("a b")),
    ("LINKERD2_PROXY_POLICY_SVC_ADDR", None, "localhost.:8086", Some("localhost")),
    ("LINKERD2_PROXY_POLICY_SVC_NAME", None, "linkerd-x.linkerd", Some("a b")),
    ("LINKERD2_PROXY_IDENTITY_SVC_ADDR", None, "localhost.:8086", Some("localhost")),
    ("LINKERD2_PROXY_IDENTITY_SVC_NAME", None, "linkerd-x.linkerd", Some("a b")),
    ("LINKERD2_PROXY_DESTINATION_CONTEXT", Some(""), "{}", None),
    ("LINKERD2_PROXY_POLICY_WORKLOAD", None, "{}", Some("")),
    ("LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS", Some(""), "10.0.0.0/8", Some("10.0.0.0")),
    ("LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES", Some("svc.cluster.local."), ".", Some("a b")),
    ("LINKERD2_PROXY_DESTINATION_PROFILE_INITIAL_TIMEOUT", Some("500ms"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_DNS_MIN_TTL", None, "1s", Some("1.5s")),
    ("LINKERD2_PROXY_DNS_MAX_TTL", None, "2s", Some("1.5s")),
    ("LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS", Some(""), "10.0.0.0/8,fd00::/8", Some("10.0.0.0/33")),
    ("LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT", None, "3s", Some("3")),
    ("LINKERD2_PROXY_CONTROL_STREAM_IDLE_TIMEOUT", None, "5m", Some("5min")),
    ("LINKERD2_PROXY_CONTROL_STREAM_LIFETIME", None, "1h", Some("-1h")),
    ("LINKERD2_PROXY_IDENTITY_DIR", None, "/id", Some("")),
    ("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", None, "pem", Some("")),
    ("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", None, "/token", Some("")),
    ("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", None, "web.demo", Some("a b")),
    ("LINKERD2_PROXY_IDENTITY_SERVER_ID", None, "web.demo", Some("a b")),
    ("LINKERD2_PROXY_IDENTITY_SERVER_NAME", None, "web.demo", Some("spiffe://a/b")),
    ("LINKERD2_PROXY_IDENTITY_MIN_REFRESH", Some("10s"), "1s", Some("1.5s")),
    ("LINKERD2_PROXY_IDENTITY_MAX_REFRESH", Some("24h"), "2s", Some("1.5s")),
    ("LINKERD2_PROXY_IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", None, "", Some("unix:///s")),
    ("LINKERD2_PROXY_IDENTITY_SPIRE_SOCKET", None, "", Some("/s")),
    ("LINKERD2_PROXY_IDENTITY_DISABLED", Some(""), "", Some("1")),
    ("LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR", None, "localhost.:8086", Some("localhost")),
    ("LINKERD2_PROXY_TRACE_COLLECTOR_SVC_NAME", None, "linkerd-x.linkerd", Some("a b")),
    ("LINKERD2_PROXY_TRACE_ATTRIBUTES_PATH", None, "/labels", None),
    ("LINKERD2_PROXY_TRACE_EXTRA_ATTRIBUTES", Some(""), "a=b", None),
    ("LINKERD2_PROXY_TRACE_SERVICE_NAME", None, "web", None),
    ("OTEL_RESOURCE_ATTRIBUTES", Some(""), "a=b", None),
    ("HOSTNAME", None, "h", None),
];

// proves: SET-3
#[test]
fn every_variable_has_its_default_and_is_checked() {
    let rows = t::TABLES.iter().flat_map(|table| table.iter());
    let known: Vec<_> = rows.map(|row| (row.name, row.default)).collect();
    let told: Vec<_> = EVERY_VARIABLE.iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(known, told);
    let good = |name: &str| EVERY_VARIABLE.iter().find(|row| row.0 == name).map(|row| row.2);
    let settings = read(good).unwrap_or_else(|bad| panic!("{bad}"));
    assert_eq!(settings.warnings, Vec::<String>::new());
    for (name, _, _, bad) in EVERY_VARIABLE {
        let Some(bad) = bad else { continue };
        let changed = |asked: &str| if asked == *name { Some(*bad) } else { good(asked) };
        let error = read(changed).expect_err(name).to_string();
        assert_eq!(error.lines().count(), 1, "{name}: {error}");
        assert!(error.contains(name), "{name}: {error}");
    }
}

// proves: SET-4
#[test]
fn what_belongs_together_counts_together() {
    let with = |changes: &'static [(&'static str, &'static str)]| {
        read(|name| {
            changes.iter().find(|(n, _)| name == format!("LINKERD2_PROXY_{n}")).map(|(_, v)| *v)
        })
    };
    const WINDOW: &str = "INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE";
    assert_eq!(with(&[(WINDOW, "70000")]).unwrap().inbound.http2.windows, None);
    let both =
        vec![(WINDOW, "70000"), ("INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "90000")];
    let both = with(both.leak()).unwrap();
    assert_eq!(both.inbound.http2.windows, Some((70_000, 90_000)));
    let settings = with(&[("OUTBOUND_TCP_QUEUE_CAPACITY", "7"), ("INGRESS_MODE", "true")]).unwrap();
    assert_eq!((settings.outbound_tcp.capacity, settings.outbound.http.capacity), (7, 10_000));
    assert!(settings.quiet, "an ingress tells its clients nothing, unless it is told to");
    for changes in [
        &[("IDENTITY_MIN_REFRESH", "2h"), ("IDENTITY_MAX_REFRESH", "1h")][..],
        &[
            ("IDENTITY_LOCAL_NAME", ""),
            ("IDENTITY_SERVER_ID", "a.b"),
            ("IDENTITY_SERVER_NAME", "c.d"),
        ],
        &[("DNS_MIN_TTL", "2s"), ("DNS_MAX_TTL", "1s")],
    ] {
        let error = with(changes.to_vec().leak()).expect_err("a contradiction");
        assert_eq!(error.0.len(), 1, "{error}");
    }
}

// proves: SET-5
#[test]
fn bad_workers_and_access_logs_are_warned_about() {
    let settings = read(|name| match name {
        "LINKERD2_PROXY_CORES_MAX" => Some("many"),
        "LINKERD2_PROXY_ACCESS_LOG" => Some("xml"),
        _ => None,
    });
    let settings = settings.unwrap();
    assert_eq!(settings.access_log, None);
    assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
    assert!(settings.warnings[0].contains("CORES_MAX"));
}
