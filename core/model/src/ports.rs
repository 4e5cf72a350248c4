//! # Port sets
//!
//! Job: lists of ports and inclusive ranges as annotations and variables spell them.
//! May touch: numbers. Callers: settings, injector, destination, policy.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// A set of TCP ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

/// Why a text is not a port set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a port or a range a-b with 1 <= a <= b <= 65535")]
pub struct InvalidPorts(String);

impl PortSet {
    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|r| r.contains(&port))
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in the order given.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }

    /// All ports, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().cloned().flatten()
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self(ports.into_iter().map(|p| p..=p).collect())
    }
}

impl FromStr for PortSet {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let number = |t: &str| t.trim().parse::<u16>().ok().filter(|p| *p > 0);
        let mut ranges = Vec::new();
        for item in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let range = match item.split_once('-') {
                None => number(item).map(|p| p..=p),
                Some((a, b)) => {
                    number(a).zip(number(b)).filter(|(a, b)| a <= b).map(|(a, b)| a..=b)
                }
            };
            ranges.push(range.ok_or_else(|| InvalidPorts(item.to_owned()))?);
        }
        Ok(Self(ranges))
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

impl PortSet {
    /// Reads a list as annotations carry it, where an item may also be the name of a port: `named` gives
    /// the numbers of a name. Items that are neither, or that nothing bears, are left out: an
    /// annotation is written by a user and one bad item must not void the others.
    pub fn from_annotation<I: IntoIterator<Item = u16>>(
        text: &str,
        named: impl Fn(&str) -> I,
    ) -> Self {
        let mut ranges = Vec::new();
        for item in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            match item.parse::<Self>() {
                Ok(set) => ranges.extend(set.0),
                Err(_) => ranges.extend(named(item).into_iter().map(|port| port..=port)),
            }
        }
        Self(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let set: PortSet = "25, 4000-4002,,".parse().unwrap();
        assert!(set.contains(25) && set.contains(4002) && !set.contains(4003));
        assert!("".parse::<PortSet>().unwrap().is_empty());
        for bad in ["0", "5-3", "a", "1-", "-1", "70000"] {
            assert!(bad.parse::<PortSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn annotations_may_name_ports_and_keep_what_is_good() {
        let named = |name: &str| (name == "mysql").then_some(3306);
        let set = PortSet::from_annotation("25,mysql,nope,9-8,100-101", named);
        assert_eq!(set.to_string(), "25,3306,100-101");
    }
}
