//! # Authorities
//!
//! Job: `host:port` as discovery and the gateway use it, and the naming of Services.
//! May touch: strings and numbers. Must not touch: DNS, sockets.
//! Callers: discovery, the proxy's target decisions, the gateway, mirrors.

use crate::identity::{DnsName, InvalidName};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
};

/// A DNS name with a port, printed `name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameAddr {
    /// The host.
    pub name: DnsName,
    /// The port, never 0.
    pub port: NonZeroU16,
}

/// What a caller asked for: a name or an address, with a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// By name.
    Name(NameAddr),
    /// By address.
    Socket(SocketAddr),
}

/// A namespaced Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// What a name under the cluster's Service zone points at (destination API path grammar).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceTarget {
    /// The Service.
    pub service: ServiceName,
    /// The endpoint's hostname, for `<instance>.<svc>.<ns>.svc.<domain>`.
    pub instance: Option<String>,
}

/// Why a text is not an authority.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidAuthority {
    /// The host part is neither an IP nor a DNS name.
    #[error("the host is invalid: {0}")]
    Host(#[from] InvalidName),
    /// The port is not a number from 1 to 65535.
    #[error("`{0}` is not a port (1 to 65535)")]
    Port(String),
}

impl NameAddr {
    /// Splits `<svc>.<ns>.svc.<domain>` or `<instance>.<svc>.<ns>.svc.<domain>`; `None` if the name
    /// does not lie in that zone.
    pub fn service_target(&self, cluster_domain: &str) -> Option<ServiceTarget> {
        ServiceTarget::from_name(&self.name, cluster_domain)
    }
}

impl ServiceName {
    /// `<svc>.<ns>.svc.<domain>`.
    pub fn fqdn(&self, cluster_domain: &str) -> String {
        format!("{}.{}.svc.{}", self.name, self.namespace, cluster_domain.trim_end_matches('.'))
    }
}

impl ServiceTarget {
    /// See [`NameAddr::service_target`].
    pub fn from_name(name: &DnsName, cluster_domain: &str) -> Option<Self> {
        let zone = format!(".svc.{}", cluster_domain.trim_matches('.').to_ascii_lowercase());
        let host = name.as_str().strip_suffix(zone.as_str())?;
        let mut labels = host.rsplit('.');
        let namespace = labels.next()?.to_owned();
        let service = labels.next()?.to_owned();
        let instance = labels.next().map(str::to_owned);
        if labels.next().is_some() {
            return None;
        }
        Some(Self { service: ServiceName { namespace, name: service }, instance })
    }
}

impl Authority {
    /// Parses `host[:port]`, with `default_port` where the port is absent.
    ///
    /// # Errors
    /// When host or port are malformed.
    pub fn parse(text: &str, default_port: NonZeroU16) -> Result<Self, InvalidAuthority> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return port_of(addr.port()).map(|_| Self::Socket(addr));
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Socket(SocketAddr::new(ip, default_port.get())));
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, default_port),
            Some((host, port)) => {
                let bad = || InvalidAuthority::Port(port.chars().take(20).collect());
                if !port.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(bad());
                }
                (host, port_of(port.parse::<u16>().map_err(|_| bad())?)?)
            }
        };
        Ok(Self::Name(NameAddr { name: host.parse()?, port }))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Name(n) => n.port.get(),
            Self::Socket(a) => a.port(),
        }
    }
}

fn port_of(port: u16) -> Result<NonZeroU16, InvalidAuthority> {
    NonZeroU16::new(port).ok_or_else(|| InvalidAuthority::Port("0".into()))
}

impl FromStr for NameAddr {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| InvalidAuthority::Port(String::new()))?;
        let number = port.parse::<u16>().map_err(|_| InvalidAuthority::Port(port.to_owned()))?;
        Ok(Self { name: host.parse()?, port: port_of(number)? })
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) => n.fmt(f),
            Self::Socket(a) => a.fmt(f),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P80: NonZeroU16 = NonZeroU16::new(80).unwrap();

    #[test]
    fn parses_names_addresses_and_default_ports() {
        for (text, printed) in [
            ("a.b", "a.b:80"),
            ("a.b:8080", "a.b:8080"),
            ("10.1.2.3", "10.1.2.3:80"),
            ("10.1.2.3:1", "10.1.2.3:1"),
            ("[::1]:9", "[::1]:9"),
            ("[::1]", "[::1]:80"),
        ] {
            assert_eq!(Authority::parse(text, P80).unwrap().to_string(), printed, "{text}");
        }
        for text in ["", "a:0", "a:+1", "a:65536", "a b:1", "10.1.2.3:0"] {
            assert!(Authority::parse(text, P80).is_err(), "{text}");
        }
    }

    #[test]
    fn splits_service_names() {
        let of = |t: &str| {
            ServiceTarget::from_name(&t.parse().unwrap(), "cluster.local.")
                .map(|t| (t.instance, t.service.name, t.service.namespace))
        };
        assert_eq!(of("web.shop.svc.cluster.local"), Some((None, "web".into(), "shop".into())));
        assert_eq!(
            of("web-0.web.shop.svc.cluster.local"),
            Some((Some("web-0".into()), "web".into(), "shop".into()))
        );
        assert_eq!(of("a.b.c.d.svc.cluster.local"), None);
        assert_eq!(of("shop.svc.cluster.local"), None);
        assert_eq!(of("web.shop.svc.other"), None);
    }
}
