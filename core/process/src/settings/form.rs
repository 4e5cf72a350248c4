//! # Forms of values
//!
//! Job: how each kind of value is written, as Linkerd's proxy and controllers write them.
//! May touch: strings. Must not touch: sockets, DNS. Callers: settings tables.

use ipnet::IpNet;
use mesh_model::{
    authority::Authority,
    identity::{DnsName, Identity},
    ports::PortSet,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// How a value is written and read.
#[derive(Debug)]
pub struct Form<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Form<T> {
    /// A form; `expected` completes the sentence "expected ...".
    pub const fn new(expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { expected, parse }
    }

    /// What a good value looks like.
    pub fn expected(&self) -> &'static str {
        self.expected
    }

    /// Reads a value.
    pub fn parse(&self, text: &str) -> Option<T> {
        (self.parse)(text)
    }
}

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Form<T> {}

/// Any text.
pub const TEXT: Form<String> = Form::new("text", |t| Some(t.to_owned()));
/// Text that is not empty.
pub const NON_EMPTY: Form<String> =
    Form::new("text that is not empty", |t| (!t.is_empty()).then(|| t.to_owned()));
/// A path.
pub const PATH: Form<PathBuf> = Form::new("a path", |t| (!t.is_empty()).then(|| PathBuf::from(t)));
/// Exactly `true` or `false`.
pub const BOOL: Form<bool> = Form::new("`true` or `false`", |t| t.parse().ok());
/// Integer with unit, or 0.
pub const DURATION: Form<Duration> =
    Form::new("an integer with a unit ms, s, m, h or d, or 0", duration);
/// As Go writes durations: `1h30m`, `1.5s`, `300ms`.
pub const GO_DURATION: Form<Duration> =
    Form::new("a duration such as 24h, 1h30m, 10s or 300ms", go_duration);
/// `ip:port`.
pub const SOCKET: Form<SocketAddr> = Form::new("ip:port", |t| t.parse().ok());
/// `[host]:port` as Go listens: an empty host is every address.
pub const GO_LISTEN: Form<SocketAddr> = Form::new("ip:port or :port", go_listen);
/// `host:port`, the host a DNS name or an address.
pub const CONTROL_ADDR: Form<Authority> = Form::new("host:port", control_addr);
/// A port, 1 to 65535.
pub const PORT: Form<NonZeroU16> = Form::new("a port, 1 to 65535", |t| t.parse().ok());
/// Ports and ranges.
pub const PORTS: Form<PortSet> =
    Form::new("a comma list of ports and ranges a-b", |t| t.parse().ok());
/// Addresses.
pub const IPS: Form<Vec<IpAddr>> = Form::new("a comma list of IP addresses", list);
/// Networks.
pub const NETWORKS: Form<Vec<IpNet>> = Form::new("a comma list of networks in CIDR form", list);
/// DNS suffixes; `.` means every name.
pub const SUFFIXES: Form<Vec<Suffix>> = Form::new("a comma list of DNS suffixes", list);
/// A DNS name.
pub const DNS_NAME: Form<DnsName> = Form::new("a DNS name", |t| t.parse().ok());
/// A workload identity.
pub const IDENTITY: Form<Identity> = Form::new("a DNS name or a spiffe:// URI", |t| t.parse().ok());
/// An unsigned number.
pub const NUMBER: Form<u64> = Form::new("a whole number", |t| t.parse().ok());
/// An unsigned number for counts and sizes.
pub const COUNT: Form<usize> = Form::new("a whole number", |t| t.parse().ok());
/// A finite number that is not negative.
pub const RATIO: Form<f64> = Form::new("a number that is not negative", |t| {
    t.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)
});
/// `plain` or `json`; true for JSON.
pub const LOG_FORMAT: Form<bool> =
    Form::new("`plain` or `json`", |t| match t.to_ascii_lowercase().as_str() {
        "plain" => Some(false),
        "json" => Some(true),
        _ => None,
    });

/// A DNS suffix that names are matched against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suffix {
    /// `.`: every name.
    Root,
    /// Names equal to this or under it.
    Name(DnsName),
}

impl Suffix {
    /// Whether `name` lies under the suffix.
    pub fn contains(&self, name: &DnsName) -> bool {
        match self {
            Self::Root => true,
            Self::Name(suffix) => name.is_under(suffix.as_str()),
        }
    }
}

impl FromStr for Suffix {
    type Err = mesh_model::identity::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "." => Ok(Self::Root),
            name => name.parse().map(Self::Name),
        }
    }
}

/// Comma list; the empty text is the empty list.
fn list<T: FromStr>(text: &str) -> Option<Vec<T>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|item| item.parse().ok()).collect()
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match &text[digits..] {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        sum += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(sum).ok() }
}

fn go_listen(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port.parse().ok()?)),
        None => text.parse().ok(),
    }
}

fn control_addr(text: &str) -> Option<Authority> {
    // The port is mandatory, so the default must never be seen.
    let (_, port) = text.rsplit_once(':')?;
    let port: NonZeroU16 = port.parse().ok()?;
    Authority::parse(text, port).ok().filter(|a| a.port() == port.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: SET-2
    #[test]
    fn durations() {
        let s = Duration::from_secs;
        for (text, value) in [
            ("10s", Some(s(10))),
            (" 3m ", Some(s(180))),
            ("2h", Some(s(7_200))),
            ("1d", Some(s(86_400))),
            ("250ms", Some(Duration::from_millis(250))),
            ("0", Some(s(0))),
            ("10", None),
            ("1.5s", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(DURATION.parse(text), value, "{text:?}");
        }
    }

    #[test]
    fn go_durations() {
        for (text, millis) in [
            ("24h0m0s", Some(86_400_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("300ms", Some(300)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("1y", None),
            ("99999999999999999999999h", None),
        ] {
            assert_eq!(GO_DURATION.parse(text).map(|d| d.as_millis()), millis, "{text:?}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(GO_LISTEN.parse(":8080").unwrap().to_string(), "0.0.0.0:8080");
        assert_eq!(GO_LISTEN.parse("127.0.0.1:1").unwrap().to_string(), "127.0.0.1:1");
        assert!(GO_LISTEN.parse("8080").is_none());
        assert!(CONTROL_ADDR.parse("a.b.:8086").is_some());
        assert!(CONTROL_ADDR.parse("10.0.0.1:1").is_some());
        for bad in ["a.b", "a.b:0", "[::1]", ":1", "10.0.0.1"] {
            assert!(CONTROL_ADDR.parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn lists() {
        assert!(IPS.parse("").unwrap().is_empty());
        assert_eq!(IPS.parse("10.0.0.1,::1").unwrap().len(), 2);
        assert!(IPS.parse("10.0.0.1, ::1").is_none());
        assert!(NETWORKS.parse("10.0.0.0/8").is_some() && NETWORKS.parse("10.0.0.0").is_none());
        let suffixes = SUFFIXES.parse("svc.Cluster.local.,.").unwrap();
        assert_eq!(suffixes[1], Suffix::Root);
        assert!(suffixes[0].contains(&"a.b.svc.cluster.local".parse().unwrap()));
    }

    #[test]
    fn bools_are_exact() {
        assert_eq!(BOOL.parse("true"), Some(true));
        for bad in ["True", "1", "", " true"] {
            assert_eq!(BOOL.parse(bad), None, "{bad:?}");
        }
    }
}
