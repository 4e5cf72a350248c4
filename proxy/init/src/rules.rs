//! # Redirect rules
//!
//! Job: which connections of a Pod go to its proxy, as values: what is to be redirected in, rules out, in
//! the order in which they are tried.
//! May touch: values. Must not touch: the kernel, its encodings. Callers: `setup`, `nftables`.

mod text;

use ipnet::IpNet;
use mesh_model::ports::PortSet;
use std::{num::NonZeroU16, ops::RangeInclusive};

/// The name of our tables, as `nft list ruleset` shows it.
pub const TABLE: &str = "mesh_init";
/// The chain of connections that come to the Pod; Linkerd's name.
pub const INBOUND: &str = "PROXY_INIT_REDIRECT";
/// The chain of connections that the Pod makes; Linkerd's name.
pub const OUTBOUND: &str = "PROXY_INIT_OUTPUT";

/// What is to be redirected, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The proxy's port for connections that come.
    pub inbound_port: NonZeroU16,
    /// The proxy's port for connections that the Pod makes.
    pub outbound_port: NonZeroU16,
    /// The proxy's user, whose own connections pass.
    pub proxy_uid: Option<u32>,
    /// The proxy's group, likewise.
    pub proxy_gid: Option<u32>,
    /// The only inbound ports that are redirected; empty: all.
    pub only_inbound: PortSet,
    /// Inbound ports that are not.
    pub skip_inbound: PortSet,
    /// Outbound ports that are not.
    pub skip_outbound: PortSet,
    /// Peers whose connections to the Pod are not.
    pub skip_subnets: Vec<IpNet>,
    /// IPv6 as well as IPv4.
    pub ipv6: bool,
}

/// All rules of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose addresses.
    pub family: Family,
    /// In any order: each is called from its own place.
    pub chains: Vec<Chain>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Rules that are tried in order until one decides; without one the connection passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where the kernel calls it.
    pub hook: Hook,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// For what comes from outside.
    Prerouting,
    /// For what a process here sends.
    Output,
}

/// One rule: if all matches hold, the verdict is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of them must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
    /// What an operator reads beside it.
    pub comment: String,
}

/// A property of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is TCP.
    Tcp,
    /// It goes to one of these ports (after [`Match::Tcp`]).
    Port(RangeInclusive<u16>),
    /// It comes from this network.
    Source(IpNet),
    /// A process of this user made it.
    Uid(u32),
    /// A process of this group made it.
    Gid(u32),
    /// It stays on the loopback interface.
    Loopback,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Return,
    /// It goes to this port of the Pod instead.
    Redirect(NonZeroU16),
}

impl Redirect {
    /// The rules, a table for each address family.
    pub fn tables(&self) -> Vec<Table> {
        let families = [Family::V4, Family::V6];
        let wanted = families.into_iter().filter(|f| *f == Family::V4 || self.ipv6);
        wanted.map(|family| self.table(family)).collect()
    }

    fn table(&self, family: Family) -> Table {
        let chains = vec![
            Chain { name: INBOUND, hook: Hook::Prerouting, rules: self.inbound(family) },
            Chain { name: OUTBOUND, hook: Hook::Output, rules: self.outbound() },
        ];
        Table { family, chains }
    }

    fn inbound(&self, family: Family) -> Vec<Rule> {
        let mut rules = ignored_ports(&self.skip_inbound);
        let ours = self.skip_subnets.iter().filter(|net| Family::of(net) == family);
        rules.extend(ours.map(|net| {
            let comment = format!("ignore-subnet-{net}");
            Rule::new(vec![Match::Source(net.trunc())], Verdict::Return, &comment)
        }));
        let redirect = Verdict::Redirect(self.inbound_port);
        if self.only_inbound.is_empty() {
            let comment = "redirect-all-incoming-to-proxy-port";
            rules.push(Rule::new(vec![Match::Tcp], redirect, comment));
        }
        rules.extend(self.only_inbound.ranges().iter().map(|ports| {
            let comment = format!("redirect-port-{}-to-proxy-port", text::ports(ports));
            Rule::new(vec![Match::Tcp, Match::Port(ports.clone())], redirect, &comment)
        }));
        rules
    }

    fn outbound(&self) -> Vec<Rule> {
        let pass = |what, comment| Rule::new(vec![what], Verdict::Return, comment);
        let mut rules = Vec::new();
        rules.extend(self.proxy_uid.map(|uid| pass(Match::Uid(uid), "ignore-proxy-user-id")));
        rules.extend(self.proxy_gid.map(|gid| pass(Match::Gid(gid), "ignore-proxy-group-id")));
        rules.push(pass(Match::Loopback, "ignore-loopback"));
        rules.extend(ignored_ports(&self.skip_outbound));
        let redirect = Verdict::Redirect(self.outbound_port);
        rules.push(Rule::new(vec![Match::Tcp], redirect, "redirect-all-outgoing-to-proxy-port"));
        rules
    }
}

impl Family {
    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl Rule {
    fn new(matches: Vec<Match>, verdict: Verdict, what: &str) -> Self {
        Self { matches, verdict, comment: format!("proxy-init/{what}") }
    }
}

fn ignored_ports(ports: &PortSet) -> Vec<Rule> {
    let rule = |ports: &RangeInclusive<u16>| {
        let comment = format!("ignore-port-{}", text::ports(ports));
        Rule::new(vec![Match::Tcp, Match::Port(ports.clone())], Verdict::Return, &comment)
    };
    ports.ranges().iter().map(rule).collect()
}

#[cfg(test)]
mod tests;
