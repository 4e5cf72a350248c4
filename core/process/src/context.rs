//! # Pod context
//!
//! Job: the one place that knows where a program runs: in a Pod of a real cluster, where everything is
//! as Kubernetes says, or in a Pod of the sandbox, where addresses and paths have to be mapped.
//! May touch: values handed in by a binary. Must not touch: the environment itself, sockets, files.
//! Callers: every binary, and the rooms that bind, dial or read mounted files.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Environment variable with the Pod's address in the sandbox.
pub const POD_IP: &str = "MESH_POD_IP";
/// Environment variable with the folder below which the container's mount paths lie.
pub const POD_ROOT: &str = "MESH_POD_ROOT";
/// Environment variable with the `ip:port` of the cluster DNS.
pub const RESOLVER: &str = "MESH_RESOLVER";
/// Environment variable with the API server's URL.
pub const API: &str = "MESH_API";
/// Environment variable that is `none` where nothing redirects traffic to the proxy.
pub const INTERCEPTION: &str = "MESH_INTERCEPTION";

/// Where the program runs. The default is a Pod (or a host) where nothing is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodContext {
    /// The Pod's own address, if sockets must be bound to it rather than to a wildcard.
    pub ip: Option<IpAddr>,
    /// Folder under which absolute mount paths are found.
    pub root: Option<PathBuf>,
    /// DNS server to use instead of `/etc/resolv.conf`.
    pub resolver: Option<SocketAddr>,
    /// API server URL to use instead of `KUBERNETES_SERVICE_HOST`.
    pub api: Option<String>,
    /// Whether traffic reaches the proxy by redirect rules.
    pub interception: Interception,
}

/// How connections come to the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interception {
    /// By redirect rules: the original destination is asked of the kernel.
    #[default]
    Redirect,
    /// Not at all: inbound takes the local address as the original destination, and outbound serves
    /// explicit proxy requests.
    None,
}

/// A context variable that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("{name}={value:?} is not valid: expected {expected}")]
pub struct InvalidContext {
    name: &'static str,
    value: String,
    expected: &'static str,
}

impl PodContext {
    /// Reads the context from variables; `lookup` gives a variable's value.
    ///
    /// # Errors
    /// Names the first variable whose value does not parse.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidContext> {
        let parsed = |name: &'static str, expected| {
            move |value: String| InvalidContext { name, value, expected }
        };
        let ip = lookup(POD_IP)
            .map(|v| v.parse().map_err(|_| parsed(POD_IP, "an IP address")(v)))
            .transpose()?;
        let resolver = lookup(RESOLVER)
            .map(|v| v.parse().map_err(|_| parsed(RESOLVER, "ip:port")(v)))
            .transpose()?;
        let interception = match lookup(INTERCEPTION) {
            None => Interception::Redirect,
            Some(v) if v == "none" => Interception::None,
            Some(v) if v == "redirect" => Interception::Redirect,
            Some(v) => return Err(parsed(INTERCEPTION, "`none` or `redirect`")(v)),
        };
        Ok(Self {
            ip,
            root: lookup(POD_ROOT).map(PathBuf::from),
            resolver,
            api: lookup(API),
            interception,
        })
    }

    /// The address to bind for a configured one: a wildcard or 127.0.0.1 becomes the Pod's address.
    pub fn bind(&self, addr: SocketAddr) -> SocketAddr {
        match self.ip {
            Some(ip) if addr.ip().is_unspecified() || addr.ip() == Ipv4Addr::LOCALHOST => {
                SocketAddr::new(ip, addr.port())
            }
            _ => addr,
        }
    }

    /// Source address for outgoing mesh connections, so that peers see who calls.
    pub fn source(&self) -> Option<IpAddr> {
        self.ip
    }

    /// Where a mounted path lies on disk.
    pub fn path(&self, mounted: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(mounted.strip_prefix("/").unwrap_or(mounted)),
            None => mounted.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandboxed() -> PodContext {
        PodContext::from_lookup(|name| {
            Some(match name {
                POD_IP => "127.7.1.2".into(),
                POD_ROOT => "/data/pod".into(),
                RESOLVER => "127.7.0.10:5353".into(),
                API => "https://127.7.0.1:6443".into(),
                _ => "none".into(),
            })
        })
        .unwrap()
    }

    #[test]
    fn the_sandbox_maps_binds_and_paths() {
        let pod = sandboxed();
        for any in ["0.0.0.0:4143", "127.0.0.1:4143", "[::]:4143"] {
            assert_eq!(pod.bind(any.parse().unwrap()).to_string(), "127.7.1.2:4143");
        }
        assert_eq!(pod.bind("127.9.9.9:1".parse().unwrap()).to_string(), "127.9.9.9:1");
        assert_eq!(pod.path(Path::new("/var/run/x")), Path::new("/data/pod/var/run/x"));
        assert_eq!(pod.interception, Interception::None);
    }

    #[test]
    fn elsewhere_nothing_is_mapped() {
        let pod = PodContext::from_lookup(|_| None).unwrap();
        assert_eq!(pod.bind("0.0.0.0:1".parse().unwrap()).to_string(), "0.0.0.0:1");
        assert_eq!(pod.path(Path::new("/a")), Path::new("/a"));
    }

    #[test]
    fn a_bad_value_is_named() {
        let error = PodContext::from_lookup(|n| (n == POD_IP).then(|| "x".into())).unwrap_err();
        assert!(error.to_string().contains("MESH_POD_IP"), "{error}");
    }
}
