//! # Annotations that configure the proxy
//!
//! Job: the table of annotations: key, form, and the chart value that each stands for.
//! May touch: text. Must not touch: objects. Callers: `values`, `metrics`, `mesh inject`.

/// The annotation that asks for a sidecar.
pub const INJECT: &str = "linkerd.io/inject";
/// Prefix of the annotations of the table that name none.
pub const PREFIX: &str = "config.linkerd.io/";

/// How an annotation's text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Text,
    /// `true` or `false` and what Go takes for them.
    Bool,
    /// A whole number, negative ones too.
    Int,
    /// A port.
    Port,
    /// Ports and ranges.
    Ports,
    /// Ports, ranges and names of container ports.
    NamedPorts,
    /// A quantity such as `100m` or `20Mi`.
    Quantity,
    /// A number between 0 and 1.
    Ratio,
    /// Networks in CIDR form.
    Networks,
    /// A Go duration, rendered as milliseconds.
    Millis,
    /// A Go duration, rendered as seconds.
    Seconds,
    /// A Go duration, as a number of seconds.
    WholeSeconds,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// `enabled` or `disabled`.
    Enabled,
    /// A JSON list of variables, merged by name.
    Env,
    /// Known, without effect here so far.
    Listed,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// The whole key.
    pub key: &'static str,
    /// How its text is read.
    pub form: Form,
    /// The value that it replaces, as `a.b.c`.
    pub path: &'static str,
}

/// The six default policies.
pub const POLICIES: &[&str] = &[
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
];

macro_rules! rows {
    ($($key:literal $form:expr => $path:literal;)*) => {
        &[$(Annotation { key: $key, form: $form, path: $path }),*]
    };
}

/// All annotations. Where several rows set one value, the later one wins.
pub const TABLE: &[Annotation] = rows! {
    "config.linkerd.io/proxy-image" Form::Text => "proxy.image.name";
    "config.linkerd.io/proxy-version" Form::Text => "proxy.image.version";
    "config.linkerd.io/image-pull-policy" Form::OneOf(&["Always", "IfNotPresent", "Never"]) => "proxy.image.pullPolicy";
    "config.linkerd.io/inbound-port" Form::Port => "proxy.ports.inbound";
    "config.linkerd.io/outbound-port" Form::Port => "proxy.ports.outbound";
    "config.linkerd.io/admin-port" Form::Port => "proxy.ports.admin";
    "config.linkerd.io/control-port" Form::Port => "proxy.ports.control";
    "config.linkerd.io/skip-inbound-ports" Form::Ports => "proxyInit.ignoreInboundPorts";
    "config.linkerd.io/skip-outbound-ports" Form::Ports => "proxyInit.ignoreOutboundPorts";
    "config.linkerd.io/skip-subnets" Form::Networks => "proxyInit.skipSubnets";
    "config.linkerd.io/opaque-ports" Form::NamedPorts => "proxy.opaquePorts";
    "config.linkerd.io/proxy-cpu-request" Form::Quantity => "proxy.resources.cpu.request";
    "config.linkerd.io/proxy-cpu-limit" Form::Quantity => "proxy.resources.cpu.limit";
    "config.linkerd.io/proxy-cpu-ratio-limit" Form::Ratio => "proxy.runtime.workers.maximumCPURatio";
    "config.linkerd.io/proxy-memory-request" Form::Quantity => "proxy.resources.memory.request";
    "config.linkerd.io/proxy-memory-limit" Form::Quantity => "proxy.resources.memory.limit";
    "config.linkerd.io/proxy-ephemeral-storage-request" Form::Quantity => "proxy.resources.ephemeral-storage.request";
    "config.linkerd.io/proxy-ephemeral-storage-limit" Form::Quantity => "proxy.resources.ephemeral-storage.limit";
    "config.linkerd.io/proxy-uid" Form::Int => "proxy.uid";
    "config.linkerd.io/proxy-gid" Form::Int => "proxy.gid";
    "config.linkerd.io/proxy-log-level" Form::Text => "proxy.logLevel";
    "config.linkerd.io/proxy-log-format" Form::OneOf(&["plain", "json"]) => "proxy.logFormat";
    "config.linkerd.io/proxy-log-http-headers" Form::OneOf(&["off", "insecure"]) => "proxy.logHTTPHeaders";
    "config.linkerd.io/access-log" Form::OneOf(&["apache", "json"]) => "proxy.accessLog";
    "config.linkerd.io/enable-external-profiles" Form::Bool => "proxy.enableExternalProfiles";
    "config.linkerd.io/proxy-require-identity-inbound-ports" Form::Ports => "proxy.requireIdentityOnInboundPorts";
    "config.linkerd.io/default-inbound-policy" Form::OneOf(POLICIES) => "proxy.defaultInboundPolicy";
    "config.linkerd.io/proxy-metrics-hostname-labels" Form::Bool => "proxy.metrics.hostnameLabels";
    "config.linkerd.io/proxy-outbound-connect-timeout" Form::Millis => "proxy.outboundConnectTimeout";
    "config.linkerd.io/proxy-inbound-connect-timeout" Form::Millis => "proxy.inboundConnectTimeout";
    "config.linkerd.io/shutdown-grace-period" Form::Millis => "proxy.shutdownGracePeriod";
    "config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout" Form::Seconds => "proxy.outboundDiscoveryCacheUnusedTimeout";
    "config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout" Form::Seconds => "proxy.inboundDiscoveryCacheUnusedTimeout";
    "config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout" Form::Bool => "proxy.disableOutboundProtocolDetectTimeout";
    "config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout" Form::Bool => "proxy.disableInboundProtocolDetectTimeout";
    "config.linkerd.io/enable-gateway" Form::Bool => "proxy.isGateway";
    "config.linkerd.io/close-wait-timeout" Form::WholeSeconds => "proxyInit.closeWaitTimeoutSecs";
    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds" Form::Int => "proxy.waitBeforeExitSeconds";
    "config.alpha.linkerd.io/proxy-enable-native-sidecar" Form::Bool => "proxy.nativeSidecar";
    "config.beta.linkerd.io/proxy-enable-native-sidecar" Form::Bool => "proxy.nativeSidecar";
    "config.linkerd.io/proxy-enable-native-sidecar" Form::Bool => "proxy.nativeSidecar";
    "config.linkerd.io/proxy-await" Form::Enabled => "proxy.await";
    "config.linkerd.io/proxy-admin-shutdown" Form::Enabled => "proxy.enableShutdownEndpoint";
    "config.linkerd.io/proxy-additional-env" Form::Env => "proxy.additionalEnv";
    "config.linkerd.io/pod-inbound-ports" Form::Listed => "";
    "config.linkerd.io/enable-debug-sidecar" Form::Listed => "";
    "config.linkerd.io/debug-image" Form::Listed => "";
    "config.linkerd.io/debug-image-version" Form::Listed => "";
    "config.linkerd.io/debug-image-pull-policy" Form::Listed => "";
};

/// Whether an annotation of a namespace is handed on to its Pods.
pub(crate) fn is_inherited(key: &str) -> bool {
    key == INJECT || TABLE.iter().any(|row| row.key == key)
}
