//! # Rules as text
//!
//! Job: rules in the syntax of `nft`, so that a person can read them, and `nft -f` could set them.
//! May touch: text. Callers: `--simulate`, comments.

use super::{Chain, Family, Hook, Match, Rule, TABLE, Table, Verdict};
use std::{
    fmt::{Display, Formatter, Result},
    ops::RangeInclusive,
};

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let family = self.family;
        // What was there before is replaced: the table is made if need be, removed, and made anew.
        writeln!(f, "table {family} {TABLE}\ndelete table {family} {TABLE}")?;
        writeln!(f, "table {family} {TABLE} {{")?;
        for (i, chain) in self.chains.iter().enumerate() {
            let gap = if i > 0 { "\n" } else { "" };
            write!(f, "{gap}{}", InFamily(family, chain))?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

/// Text that depends on the table's family.
struct InFamily<'a, T>(Family, &'a T);

impl Display for InFamily<'_, Chain> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Chain { name, hook, rules } = self.1;
        writeln!(f, "\tchain {name} {{")?;
        writeln!(f, "\t\ttype nat hook {hook} priority -100; policy accept;")?;
        for rule in rules {
            writeln!(f, "\t\t{}", InFamily(self.0, rule))?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for InFamily<'_, Rule> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Rule { matches, verdict, comment } = self.1;
        for one in matches {
            match one {
                // A port match says it already.
                Match::Tcp if matches.iter().any(|m| matches!(m, Match::Port(_))) => {}
                Match::Tcp => f.write_str("meta l4proto tcp ")?,
                Match::Port(range) => write!(f, "tcp dport {} ", ports(range))?,
                Match::Source(net) => write!(f, "{} saddr {net} ", self.0)?,
                Match::Uid(uid) => write!(f, "meta skuid {uid} ")?,
                Match::Gid(gid) => write!(f, "meta skgid {gid} ")?,
                Match::Loopback => f.write_str("oifname \"lo\" ")?,
            }
        }
        match verdict {
            Verdict::Return => f.write_str("counter return")?,
            Verdict::Redirect(port) => write!(f, "counter redirect to :{port}")?,
        }
        write!(f, " comment \"{comment}\"")
    }
}

/// One port, or the first and the last.
pub(crate) fn ports(range: &RangeInclusive<u16>) -> String {
    match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    }
}
