//! # What a runtime tells the plugin
//!
//! Job: the network configuration and the Pod's name, parsed once.
//! May touch: JSON, text. Callers: `cni`, `pod`.

use crate::rules::Redirect;
use ipnet::IpNet;
use mesh_model::ports::PortSet;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fmt, num::NonZeroU16, path::PathBuf};

/// A network configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the network configuration is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error("linkerd.{name}={value:?} is not valid: expected {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
}

/// The plugin's part of a network configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(rename = "cniVersion", default)]
    pub(crate) cni_version: String,
    #[serde(default = "info")]
    pub(crate) log_level: String,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) linkerd: Linkerd,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
}

/// Access to the API server.
#[derive(Debug, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) kubeconfig: PathBuf,
}

/// The flags of proxy-init, for all Pods.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Linkerd {
    incoming_proxy_port: NonZeroU16,
    outgoing_proxy_port: NonZeroU16,
    #[serde(default)]
    proxy_uid: i64,
    #[serde(default)]
    proxy_gid: i64,
    #[serde(default)]
    ports_to_redirect: List,
    #[serde(default)]
    inbound_ports_to_ignore: List,
    #[serde(default)]
    outbound_ports_to_ignore: List,
    #[serde(default)]
    subnets_to_ignore: List,
    #[serde(default)]
    pub(crate) simulate: bool,
    #[serde(default)]
    ipv6: bool,
}

/// A list, as JSON has it or as text with commas, of numbers or of text.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum List {
    #[default]
    None,
    Text(String),
    Items(Vec<Value>),
}

/// The Pod that a network is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Config {
    pub(crate) fn parse(input: &[u8]) -> Result<Self, ConfigError> {
        Ok(serde_json::from_slice(input)?)
    }

    /// The version of a configuration that may be broken elsewhere.
    pub(crate) fn version(input: &[u8]) -> String {
        let parsed: Value = serde_json::from_slice(input).unwrap_or_default();
        parsed["cniVersion"].as_str().unwrap_or("0.3.1").to_owned()
    }

    /// What the plugins before this one have made, handed on.
    pub(crate) fn result(&self) -> Value {
        let mut result = self.previous.clone().unwrap_or_else(|| json!({}));
        if result["cniVersion"].is_null() {
            result["cniVersion"] = json!(self.cni_version);
        }
        result
    }
}

impl Linkerd {
    /// The rules for a Pod that asks for nothing else.
    pub(crate) fn redirect(&self) -> Result<Redirect, ConfigError> {
        let expected = "ports and ranges";
        let ports = |name, list: &List| list.parse::<PortSet>(name, expected);
        let subnets = self.subnets_to_ignore.text();
        let subnets = subnets.split(',').map(str::trim).filter(|t| !t.is_empty());
        let subnet = |text: &str| {
            text.parse::<IpNet>().map_err(|_| ConfigError::Value {
                name: "subnets-to-ignore",
                value: text.to_owned(),
                expected: "networks in CIDR form",
            })
        };
        Ok(Redirect {
            inbound_port: self.incoming_proxy_port,
            outbound_port: self.outgoing_proxy_port,
            proxy_uid: id(self.proxy_uid),
            proxy_gid: id(self.proxy_gid),
            only_inbound: ports("ports-to-redirect", &self.ports_to_redirect)?,
            skip_inbound: ports("inbound-ports-to-ignore", &self.inbound_ports_to_ignore)?,
            skip_outbound: ports("outbound-ports-to-ignore", &self.outbound_ports_to_ignore)?,
            skip_subnets: subnets.map(subnet).collect::<Result<_, _>>()?,
            ipv6: self.ipv6,
        })
    }
}

impl List {
    fn text(&self) -> String {
        let item = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match self {
            Self::None => String::new(),
            Self::Text(text) => text.clone(),
            Self::Items(items) => items.iter().map(item).collect::<Vec<_>>().join(","),
        }
    }

    fn parse<T: std::str::FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<T, ConfigError> {
        let value = self.text();
        value.parse().map_err(|_| ConfigError::Value { name, value, expected })
    }
}

impl PodName {
    /// From `CNI_ARGS`: pairs with `=`, between semicolons.
    pub(crate) fn of(arguments: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(name, _)| *name == key)?;
            // Names that could lead elsewhere in a path are not names.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            (!value.is_empty() && value.chars().all(plain)).then(|| value.to_owned())
        };
        Some(Self { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")? })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A user or group that can be told from the application's.
pub(crate) fn id(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id > 0)
}

fn info() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: INIT-10
    #[test]
    fn the_configuration_is_read_and_the_result_handed_on() {
        let input = br#"{
            "cniVersion": "0.3.1", "name": "k8s-pod-network", "type": "linkerd-cni", "log_level": "debug",
            "policy": {"type": "k8s"},
            "kubernetes": {"kubeconfig": "/etc/cni/net.d/ZZZ-linkerd-cni-kubeconfig"},
            "linkerd": {
                "incoming-proxy-port": 4143, "outgoing-proxy-port": 4140, "proxy-uid": 2102, "proxy-gid": -1,
                "ports-to-redirect": [], "inbound-ports-to-ignore": ["4191", "4190", "20-25"],
                "outbound-ports-to-ignore": [443], "subnets-to-ignore": "10.0.0.0/8,fd00::/8",
                "simulate": false, "use-wait-flag": false, "iptables-mode": "nft", "ipv6": true
            },
            "prevResult": {"ips": [{"address": "10.1.0.5/16"}]}
        }"#;
        let config = Config::parse(input).unwrap();
        let redirect = config.linkerd.redirect().unwrap();
        assert_eq!((redirect.proxy_uid, redirect.proxy_gid), (Some(2102), None));
        assert_eq!(redirect.skip_inbound.to_string(), "4191,4190,20-25");
        assert_eq!(redirect.skip_outbound.to_string(), "443");
        assert_eq!((redirect.skip_subnets.len(), redirect.ipv6), (2, true));
        let result = config.result();
        assert_eq!(result["ips"][0]["address"], "10.1.0.5/16");
        assert_eq!(result["cniVersion"], "0.3.1");
    }

    // proves: INIT-10
    #[test]
    fn bad_configurations_are_named() {
        let error = Config::parse(b"{}").unwrap_err().to_string();
        assert!(error.contains("kubernetes"), "{error}");
        let input = br#"{"kubernetes": {"kubeconfig": "/k"}, "linkerd": {
            "incoming-proxy-port": 1, "outgoing-proxy-port": 2, "inbound-ports-to-ignore": ["x"]}}"#;
        let config = Config::parse(input).unwrap();
        let error = config.linkerd.redirect().unwrap_err().to_string();
        assert!(error.contains("inbound-ports-to-ignore=\"x\""), "{error}");
        assert_eq!(Config::version(b"nonsense"), "0.3.1");
    }

    #[test]
    fn the_pods_name_is_found_among_arguments() {
        let found = PodName::of("IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web-0");
        assert_eq!(found.unwrap().to_string(), "demo/web-0");
        assert_eq!(PodName::of("K8S_POD_NAMESPACE=demo;K8S_POD_NAME=../x"), None);
        assert_eq!(PodName::of(""), None);
    }
}
