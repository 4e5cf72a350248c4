//! # Proxy flags
//!
//! Job: the flags about the proxy that `install` and `inject` share, each with the chart value and the
//! annotation that it stands for.
//! May touch: text. Must not touch: clusters. Callers: `install`, `inject`.

use serde_json::{Value, json};

/// Flags about the proxy.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Proxy flags")]
pub(crate) struct ProxyFlags {
    /// Image of the proxy
    #[arg(long)]
    proxy_image: Option<String>,
    /// Version (tag) of the proxy's image
    #[arg(short = 'v', long)]
    proxy_version: Option<String>,
    /// When images are pulled: Always, IfNotPresent or Never
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Registry of all images
    #[arg(long, env = "LINKERD_DOCKER_REGISTRY", hide_env = true)]
    registry: Option<String>,
    /// Port for traffic to the application
    #[arg(long)]
    inbound_port: Option<u16>,
    /// Port for traffic from the application
    #[arg(long)]
    outbound_port: Option<u16>,
    /// Port of the proxy's control server
    #[arg(long)]
    control_port: Option<u16>,
    /// Port for metrics and probes
    #[arg(long)]
    admin_port: Option<u16>,
    /// Ports and ranges that bypass the proxy on their way in
    #[arg(long)]
    skip_inbound_ports: Option<String>,
    /// Ports and ranges that bypass the proxy on their way out
    #[arg(long)]
    skip_outbound_ports: Option<String>,
    /// User id of the proxy
    #[arg(long)]
    proxy_uid: Option<i64>,
    /// Group id of the proxy
    #[arg(long, allow_negative_numbers = true)]
    proxy_gid: Option<i64>,
    /// Log level of the proxy
    #[arg(long)]
    proxy_log_level: Option<String>,
    /// CPU that the proxy asks for
    #[arg(long)]
    proxy_cpu_request: Option<String>,
    /// CPU that the proxy may use
    #[arg(long)]
    proxy_cpu_limit: Option<String>,
    /// Memory that the proxy asks for
    #[arg(long)]
    proxy_memory_request: Option<String>,
    /// Memory that the proxy may use
    #[arg(long)]
    proxy_memory_limit: Option<String>,
    /// Ask for profiles of names outside of the cluster too
    #[arg(long)]
    enable_external_profiles: bool,
    /// Policy for traffic that no authorization names
    #[arg(long)]
    default_inbound_policy: Option<String>,
}

/// A flag that was given: where its value lies in a chart, what it is, and the annotation's key after
/// `config.linkerd.io/`.
pub(crate) struct Given {
    pub(crate) path: &'static str,
    pub(crate) value: Value,
    pub(crate) annotation: &'static str,
}

impl ProxyFlags {
    /// What was given, in the order of the flags.
    pub(crate) fn given(&self) -> Vec<Given> {
        let text = |v: &Option<String>| v.as_ref().map(|v| json!(v));
        let port = |v: Option<u16>| v.map(|v| json!(v));
        let id = |v: Option<i64>| v.map(|v| json!(v));
        let rows = [
            ("proxy.image.name", text(&self.proxy_image), "proxy-image"),
            ("proxy.image.version", text(&self.proxy_version), "proxy-version"),
            ("imagePullPolicy", text(&self.image_pull_policy), "image-pull-policy"),
            ("proxy.ports.inbound", port(self.inbound_port), "inbound-port"),
            ("proxy.ports.outbound", port(self.outbound_port), "outbound-port"),
            ("proxy.ports.control", port(self.control_port), "control-port"),
            ("proxy.ports.admin", port(self.admin_port), "admin-port"),
            ("proxyInit.ignoreInboundPorts", text(&self.skip_inbound_ports), "skip-inbound-ports"),
            (
                "proxyInit.ignoreOutboundPorts",
                text(&self.skip_outbound_ports),
                "skip-outbound-ports",
            ),
            ("proxy.uid", id(self.proxy_uid), "proxy-uid"),
            ("proxy.gid", id(self.proxy_gid), "proxy-gid"),
            ("proxy.logLevel", text(&self.proxy_log_level), "proxy-log-level"),
            ("proxy.resources.cpu.request", text(&self.proxy_cpu_request), "proxy-cpu-request"),
            ("proxy.resources.cpu.limit", text(&self.proxy_cpu_limit), "proxy-cpu-limit"),
            (
                "proxy.resources.memory.request",
                text(&self.proxy_memory_request),
                "proxy-memory-request",
            ),
            ("proxy.resources.memory.limit", text(&self.proxy_memory_limit), "proxy-memory-limit"),
            (
                "proxy.enableExternalProfiles",
                self.enable_external_profiles.then(|| json!(true)),
                "enable-external-profiles",
            ),
            (
                "proxy.defaultInboundPolicy",
                text(&self.default_inbound_policy),
                "default-inbound-policy",
            ),
        ];
        let given = |(path, value, annotation): (_, Option<Value>, _)| {
            value.map(|value| Given { path, value, annotation })
        };
        rows.into_iter().filter_map(given).collect()
    }

    /// Lays the flags on values of the control-plane chart.
    pub(crate) fn apply(&self, values: &mut Value) {
        if let Some(registry) = &self.registry {
            for path in ["controllerImage", "proxy.image.name"] {
                let image = lookup(values, path).and_then(Value::as_str).unwrap_or_default();
                let name = image.rsplit('/').next().unwrap_or_default().to_owned();
                put(values, path, json!(format!("{}/{name}", registry.trim_end_matches('/'))));
            }
        }
        for given in self.given() {
            put(values, given.path, given.value);
        }
    }
}

/// The value at a path like `a.b.c`.
pub(crate) fn lookup<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(values, |at, key| at.get(key))
}

/// Sets the value at a path like `a.b.c`, making maps on the way.
pub(crate) fn put(values: &mut Value, path: &str, value: Value) {
    let mut at = values;
    for key in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}
