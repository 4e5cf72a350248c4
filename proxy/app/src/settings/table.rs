//! # The proxy's variables
//!
//! Job: one row a variable: name, default, meaning. The reference page is made from these rows.
//! May touch: nothing. Callers: `settings`.

use mesh_process::settings::Setting;

macro_rules! rows {
    ($list:ident: $($name:ident = $row:expr;)*) => {
        $(pub(crate) const $name: Setting = $row;)*
        pub(crate) const $list: &[Setting] = &[$($name),*];
    };
}

/// A row named with the proxy's prefix.
macro_rules! row {
    ($name:literal, $doc:literal) => {
        Setting::new(concat!("LINKERD2_PROXY_", $name), $doc)
    };
    ($name:literal, $doc:literal, $default:literal) => {
        Setting::new(concat!("LINKERD2_PROXY_", $name), $doc).default($default)
    };
}

rows! { PROCESS:
    LOG = row!("LOG", "log filter", "warn,linkerd=info,hickory=error");
    LOG_FORMAT = row!("LOG_FORMAT", "PLAIN or JSON", "PLAIN");
    ADMIN_LISTEN_ADDR = row!("ADMIN_LISTEN_ADDR", "admin server", "127.0.0.1:4191");
    CONTROL_LISTEN_ADDR = row!("CONTROL_LISTEN_ADDR", "tap server", "0.0.0.0:4190").ignored();
    SHUTDOWN_ENDPOINT_ENABLED = row!("SHUTDOWN_ENDPOINT_ENABLED", "allow POST /shutdown", "false");
    SHUTDOWN_GRACE_PERIOD = row!("SHUTDOWN_GRACE_PERIOD", "longest drain", "2m");
    METRICS_RETAIN_IDLE = row!("METRICS_RETAIN_IDLE", "how long unused series are shown", "10m");
    CORES = row!("CORES", "least workers, if CORES_MIN is not set");
    CORES_MIN = row!("CORES_MIN", "least workers");
    CORES_MAX = row!("CORES_MAX", "most workers");
    CORES_MAX_RATIO = row!("CORES_MAX_RATIO", "most workers as a share of the CPUs");
    ACCESS_LOG = row!("ACCESS_LOG", "write a line for each inbound request to stderr: apache or json").empty_is_unset();
    TAP_SVC_NAME = row!("TAP_SVC_NAME", "identity that may tap").empty_is_unset().ignored();
    ORIGINAL_DST = Setting::new(
        "MESH_ORIGINAL_DST",
        "`redirect`: ask the kernel where a connection was headed; `local`: it is the local address (gateways)",
    ).default("redirect");
    EXPLICIT = Setting::new("MESH_EXPLICIT_PROXY", "serve absolute-form and CONNECT requests on the outbound port")
        .default("false");
    SNAPSHOT = Setting::new("MESH_SNAPSHOT", "file for a gateway's last good view; none without it").empty_is_unset();
}

rows! { OUTBOUND:
    OUTBOUND_LISTEN_ADDRS = row!("OUTBOUND_LISTEN_ADDRS", "one or two outbound addresses").empty_is_unset();
    OUTBOUND_LISTEN_ADDR = row!("OUTBOUND_LISTEN_ADDR", "outbound address, if OUTBOUND_LISTEN_ADDRS is not set", "127.0.0.1:4140");
    OUTBOUND_DETECT_TIMEOUT = row!("OUTBOUND_DETECT_TIMEOUT", "wait for a client's first bytes", "10s");
    OUTBOUND_CONNECT_TIMEOUT = row!("OUTBOUND_CONNECT_TIMEOUT", "TCP, TLS and transport header together", "1s");
    OUTBOUND_BACKOFF_MIN = row!("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "first pause before connecting again");
    OUTBOUND_BACKOFF_MAX = row!("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "longest pause before connecting again");
    OUTBOUND_BACKOFF_JITTER = row!("OUTBOUND_CONNECT_EXP_BACKOFF_JITTER", "random share of a pause");
    OUTBOUND_TCP_QUEUE = row!("OUTBOUND_TCP_QUEUE_CAPACITY", "connections that may wait for an endpoint", "10000");
    OUTBOUND_TCP_FAILFAST = row!("OUTBOUND_TCP_FAILFAST_TIMEOUT", "longest wait for an endpoint", "3s");
    OUTBOUND_HTTP_QUEUE = row!("OUTBOUND_HTTP_QUEUE_CAPACITY", "requests that may wait for an endpoint", "10000");
    OUTBOUND_HTTP_FAILFAST = row!("OUTBOUND_HTTP_FAILFAST_TIMEOUT", "longest wait for an endpoint", "3s");
    OUTBOUND_MAX_IN_FLIGHT = row!("OUTBOUND_MAX_IN_FLIGHT", "requests at once", "100000");
    OUTBOUND_DISCOVERY_IDLE = row!("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "how long unused discovery is kept", "5s");
    OUTBOUND_MAX_IDLE_CONNS = row!("OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", "idle HTTP/1 connections", "10000");
    OUTBOUND_H1_IDLE = row!("OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", "how long an idle HTTP/1 connection is kept", "3s");
    OUTBOUND_ACCEPT_KEEPALIVE = row!("OUTBOUND_ACCEPT_KEEPALIVE", "TCP keepalive of accepted connections");
    OUTBOUND_CONNECT_KEEPALIVE = row!("OUTBOUND_CONNECT_KEEPALIVE", "TCP keepalive of connections made");
    OUTBOUND_ACCEPT_USER_TIMEOUT = row!("OUTBOUND_ACCEPT_USER_TIMEOUT", "TCP_USER_TIMEOUT of accepted connections");
    OUTBOUND_CONNECT_USER_TIMEOUT = row!("OUTBOUND_CONNECT_USER_TIMEOUT", "TCP_USER_TIMEOUT of connections made");
    OUTBOUND_BACKLOG = row!("OUTBOUND_TCP_LISTEN_BACKLOG", "listen backlog");
    OUTBOUND_PING_INTERVAL = row!("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "HTTP/2 PING to clients").empty_is_unset();
    OUTBOUND_PING_TIMEOUT = row!("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "wait for its answer").empty_is_unset();
    OUTBOUND_MAX_STREAMS = row!("OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", "streams that a client may have open").empty_is_unset();
    OUTBOUND_MAX_FRAME = row!("OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", "largest frame, 16384 to 16777215 bytes").empty_is_unset();
    OUTBOUND_MAX_HEADERS = row!("OUTBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE", "largest header list, bytes").empty_is_unset();
    OUTBOUND_MAX_RESETS = row!("OUTBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", "streams that a client may reset before they are served").empty_is_unset();
    OUTBOUND_SEND_BUF = row!("OUTBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE", "send buffer of a stream, bytes").empty_is_unset();
    OUTBOUND_ADAPTIVE = row!("OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "windows that grow as needed").empty_is_unset();
    OUTBOUND_STREAM_WINDOW = row!("OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "stream window, bytes; counts with the next only").empty_is_unset();
    OUTBOUND_CONNECTION_WINDOW = row!("OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "connection window, bytes; counts with the one above only").empty_is_unset();
    QUIET = row!("OUTBOUND_DISABLE_INFORMATIONAL_HEADERS", "no l5d-proxy-error and the like toward the application; as INGRESS_MODE if not set");
    HOSTNAME_LABELS = row!("OUTBOUND_METRICS_HOSTNAME_LABELS", "hostname label on route metrics", "false");
    INGRESS_MODE = row!("INGRESS_MODE", "route each request by its l5d-dst-override header", "false");
    H2_STREAM_WINDOW = row!("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "HTTP/2 clients' stream window", "65535");
    H2_CONNECTION_WINDOW = row!("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "HTTP/2 clients' connection window", "1048576");
}

rows! { INBOUND:
    INBOUND_LISTEN_ADDR = row!("INBOUND_LISTEN_ADDR", "inbound address", "0.0.0.0:4143");
    INBOUND_DETECT_TIMEOUT = row!("INBOUND_DETECT_TIMEOUT", "wait for a client's first bytes", "10s");
    INBOUND_CONNECT_TIMEOUT = row!("INBOUND_CONNECT_TIMEOUT", "TCP connect to the application", "300ms");
    INBOUND_BACKOFF_MIN = row!("INBOUND_CONNECT_EXP_BACKOFF_MIN", "first pause before connecting again");
    INBOUND_BACKOFF_MAX = row!("INBOUND_CONNECT_EXP_BACKOFF_MAX", "longest pause before connecting again");
    INBOUND_BACKOFF_JITTER = row!("INBOUND_CONNECT_EXP_BACKOFF_JITTER", "random share of a pause");
    INBOUND_HTTP_QUEUE = row!("INBOUND_HTTP_QUEUE_CAPACITY", "requests that may wait for the application", "10000");
    INBOUND_HTTP_FAILFAST = row!("INBOUND_HTTP_FAILFAST_TIMEOUT", "longest wait for the application", "1s");
    INBOUND_MAX_IN_FLIGHT = row!("INBOUND_MAX_IN_FLIGHT", "requests at once", "100000");
    INBOUND_DISCOVERY_IDLE = row!("INBOUND_DISCOVERY_IDLE_TIMEOUT", "how long an unused policy is kept", "90s");
    INBOUND_MAX_IDLE_CONNS = row!("MAX_IDLE_CONNS_PER_ENDPOINT", "idle HTTP/1 connections", "10000");
    INBOUND_H1_IDLE = row!("INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", "how long an idle HTTP/1 connection is kept", "3s");
    INBOUND_ACCEPT_KEEPALIVE = row!("INBOUND_ACCEPT_KEEPALIVE", "TCP keepalive of accepted connections");
    INBOUND_CONNECT_KEEPALIVE = row!("INBOUND_CONNECT_KEEPALIVE", "TCP keepalive of connections made");
    INBOUND_ACCEPT_USER_TIMEOUT = row!("INBOUND_ACCEPT_USER_TIMEOUT", "TCP_USER_TIMEOUT of accepted connections");
    INBOUND_CONNECT_USER_TIMEOUT = row!("INBOUND_CONNECT_USER_TIMEOUT", "TCP_USER_TIMEOUT of connections made");
    INBOUND_BACKLOG = row!("INBOUND_TCP_LISTEN_BACKLOG", "listen backlog");
    INBOUND_PING_INTERVAL = row!("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "HTTP/2 PING to peers").empty_is_unset();
    INBOUND_PING_TIMEOUT = row!("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "wait for its answer").empty_is_unset();
    INBOUND_MAX_STREAMS = row!("INBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS", "streams that a client may have open").empty_is_unset();
    INBOUND_MAX_FRAME = row!("INBOUND_SERVER_HTTP2_MAX_FRAME_SIZE", "largest frame, 16384 to 16777215 bytes").empty_is_unset();
    INBOUND_MAX_HEADERS = row!("INBOUND_SERVER_HTTP2_MAX_HEADER_LIST_SIZE", "largest header list, bytes").empty_is_unset();
    INBOUND_MAX_RESETS = row!("INBOUND_SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", "streams that a client may reset before they are served").empty_is_unset();
    INBOUND_SEND_BUF = row!("INBOUND_SERVER_HTTP2_MAX_SEND_BUF_SIZE", "send buffer of a stream, bytes").empty_is_unset();
    INBOUND_ADAPTIVE = row!("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "windows that grow as needed").empty_is_unset();
    INBOUND_STREAM_WINDOW = row!("INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "stream window, bytes; counts with the next only").empty_is_unset();
    INBOUND_CONNECTION_WINDOW = row!("INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "connection window, bytes; counts with the one above only").empty_is_unset();
    INBOUND_DEFAULT_POLICY = row!("INBOUND_DEFAULT_POLICY", "policy of ports that nothing else covers", "all-unauthenticated");
    INBOUND_PORTS = row!("INBOUND_PORTS", "ports whose policies are watched from the start", "");
    INBOUND_OPAQUE_PORTS = row!("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "ports whose default policy is opaque", "");
    INBOUND_IPS = row!("INBOUND_IPS", "the Pod's addresses; empty accepts any", "");
    AUTHORITY_LABELS = row!("INBOUND_METRICS_AUTHORITY_LABELS", "`unsafe`: the name that requests are for as the label authority; clients can make any number of series").empty_is_unset();
    INBOUND_GATEWAY_SUFFIXES = row!("INBOUND_GATEWAY_SUFFIXES", "names a gateway serves; empty is no gateway", "");
}

rows! { CONTROL:
    DESTINATION_SVC_ADDR = row!("DESTINATION_SVC_ADDR", "destination service");
    DESTINATION_SVC_NAME = row!("DESTINATION_SVC_NAME", "its identity").empty_is_unset();
    POLICY_SVC_ADDR = row!("POLICY_SVC_ADDR", "policy service");
    POLICY_SVC_NAME = row!("POLICY_SVC_NAME", "its identity").empty_is_unset();
    IDENTITY_SVC_ADDR = row!("IDENTITY_SVC_ADDR", "identity service");
    IDENTITY_SVC_NAME = row!("IDENTITY_SVC_NAME", "its identity").empty_is_unset();
    DESTINATION_CONTEXT = row!("DESTINATION_CONTEXT", "token sent with discovery requests", "");
    POLICY_WORKLOAD = row!("POLICY_WORKLOAD", "workload sent with policy requests");
    PROFILE_NETWORKS = row!("DESTINATION_PROFILE_NETWORKS", "addresses that are looked up", "");
    PROFILE_SUFFIXES = row!("DESTINATION_PROFILE_SUFFIXES", "names that are looked up", "svc.cluster.local.");
    PROFILE_TIMEOUT = row!("DESTINATION_PROFILE_INITIAL_TIMEOUT", "how long a request waits inbound for its profile; none waits", "500ms").ignored();
    DNS_MIN_TTL = row!("DNS_MIN_TTL", "answers hold at least this long");
    DNS_MAX_TTL = row!("DNS_MAX_TTL", "answers hold at most this long");
    CLUSTER_NETWORKS = row!("POLICY_CLUSTER_NETWORKS", "networks of the cluster-* default policies", "");
    STREAM_INITIAL = row!("CONTROL_STREAM_INITIAL_TIMEOUT", "wait for a stream's first message").empty_is_unset();
    STREAM_IDLE = row!("CONTROL_STREAM_IDLE_TIMEOUT", "longest silence of a stream").empty_is_unset();
    STREAM_LIFETIME = row!("CONTROL_STREAM_LIFETIME", "longest life of a stream").empty_is_unset();
}

rows! { IDENTITY:
    IDENTITY_DIR = row!("IDENTITY_DIR", "folder of key.p8 and csr.der");
    IDENTITY_TRUST_ANCHORS = row!("IDENTITY_TRUST_ANCHORS", "PEM of the trusted roots");
    IDENTITY_TOKEN_FILE = row!("IDENTITY_TOKEN_FILE", "ServiceAccount token, read before every Certify");
    IDENTITY_LOCAL_NAME = row!("IDENTITY_LOCAL_NAME", "own identity").empty_is_unset();
    IDENTITY_SERVER_ID = row!("IDENTITY_SERVER_ID", "own identity, if IDENTITY_LOCAL_NAME is not set").empty_is_unset();
    IDENTITY_SERVER_NAME = row!("IDENTITY_SERVER_NAME", "own SNI, if IDENTITY_LOCAL_NAME is not set").empty_is_unset();
    IDENTITY_MIN_REFRESH = row!("IDENTITY_MIN_REFRESH", "shortest time between renewals", "10s");
    IDENTITY_MAX_REFRESH = row!("IDENTITY_MAX_REFRESH", "longest time between renewals", "24h");
    SPIRE_ADDR = row!("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", "must not be set: identities of SPIRE are not supported").empty_is_unset();
    SPIRE_SOCKET = row!("IDENTITY_SPIRE_SOCKET", "must not be set: identities of SPIRE are not supported").empty_is_unset();
    IDENTITY_DISABLED = row!("IDENTITY_DISABLED", "must not be set: identity is mandatory", "");
}

rows! { TRACING:
    TRACE_ADDR = row!("TRACE_COLLECTOR_SVC_ADDR", "OTLP collector (gRPC); nothing is traced without").empty_is_unset();
    TRACE_NAME = row!("TRACE_COLLECTOR_SVC_NAME", "its identity").empty_is_unset();
    TRACE_LABELS = row!("TRACE_ATTRIBUTES_PATH", "file of k=\"v\" lines that become attributes of all spans").empty_is_unset();
    TRACE_EXTRA = row!("TRACE_EXTRA_ATTRIBUTES", "more attributes, a line each", "");
    TRACE_SERVICE = row!("TRACE_SERVICE_NAME", "attribute service.name").empty_is_unset();
    TRACE_OTEL = Setting::new("OTEL_RESOURCE_ATTRIBUTES", "attributes that win over all others; commas or lines part them")
        .default("");
    TRACE_HOST = Setting::new("HOSTNAME", "attribute host.name").empty_is_unset();
}

/// All rows, by section.
pub(crate) const TABLES: &[&[Setting]] = &[PROCESS, OUTBOUND, INBOUND, CONTROL, IDENTITY, TRACING];
