//! # Rules for the kernel
//!
//! Job: tables as messages of nf_tables, in one transaction that replaces what was there.
//! May touch: bytes; the kernel, in [`replace`] alone. Must not touch: what the rules mean.
//! Callers: `setup`.

use crate::{
    error::InitError,
    netlink::{APPEND, Attrs, CREATE, Message, Socket},
    rules::{Chain, Family, Hook, Match, Rule, TABLE, Table, Verdict},
};
use ipnet::IpNet;

/// Sets the tables, in place of those of an earlier run, all or none.
///
/// # Errors
/// When the kernel refuses; nothing has changed then.
pub(crate) fn replace(tables: &[Table]) -> Result<(), InitError> {
    let socket = Socket::netfilter().map_err(InitError::from_open)?;
    let (messages, steps) = transaction(tables);
    let answers = socket.exchange(&messages).map_err(InitError::from_exchange)?;
    if let Some(refused) = answers.iter().find(|a| a.errno != 0) {
        let step = steps.get(refused.index).cloned().unwrap_or_default();
        return Err(InitError::from_answer(refused.errno, step));
    }
    // Only the last step asks for a confirmation: one for each rule could overflow the socket.
    match answers.iter().any(|a| a.index + 2 == messages.len()) {
        true => Ok(()),
        false => Err(InitError::Unconfirmed),
    }
}

/// The messages, and what each does in words.
fn transaction(tables: &[Table]) -> (Vec<Message>, Vec<String>) {
    let mut all = Transaction::default();
    all.add("begin", envelope(BATCH_BEGIN));
    for table in tables {
        all.table(table);
    }
    if let Some(last) = all.messages.pop() {
        all.messages.push(last.confirmed());
    }
    all.add("end", envelope(BATCH_END));
    (all.messages, all.steps)
}

#[derive(Default)]
struct Transaction {
    messages: Vec<Message>,
    steps: Vec<String>,
}

impl Transaction {
    fn add(&mut self, step: impl Into<String>, message: Message) {
        self.messages.push(message);
        self.steps.push(step.into());
    }

    fn table(&mut self, table: &Table) {
        let Table { family, chains } = table;
        let named = Attrs::new().text(attr::TABLE_NAME, TABLE);
        let step = format!("table {family} {TABLE}");
        let made = || request(NEW_TABLE, CREATE, *family, named.clone());
        self.add(&*step, made());
        self.add(&*step, request(DELETE_TABLE, 0, *family, named.clone()));
        self.add(&*step, made());
        for chain in chains {
            self.add(format!("chain {}", chain.name), new_chain(*family, chain));
        }
        for chain in chains {
            for rule in &chain.rules {
                self.add(format!("rule {}", rule.comment), new_rule(*family, chain, rule));
            }
        }
    }
}

fn new_chain(family: Family, chain: &Chain) -> Message {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    };
    let place = Attrs::new()
        .number(attr::HOOK_NUMBER, hook)
        .bytes(attr::HOOK_PRIORITY, &DESTINATION_NAT.to_be_bytes());
    let attrs = Attrs::new()
        .text(attr::CHAIN_TABLE, TABLE)
        .text(attr::CHAIN_NAME, chain.name)
        .nest(attr::CHAIN_HOOK, &place)
        .number(attr::CHAIN_POLICY, ACCEPT)
        .text(attr::CHAIN_TYPE, "nat");
    request(NEW_CHAIN, CREATE, family, attrs)
}

fn new_rule(family: Family, chain: &Chain, rule: &Rule) -> Message {
    let mut steps = Steps::default();
    for one in &rule.matches {
        steps.test(one);
    }
    steps.add("counter", Attrs::new());
    steps.decide(rule.verdict);
    let attrs = Attrs::new()
        .text(attr::RULE_TABLE, TABLE)
        .text(attr::RULE_CHAIN, chain.name)
        .nest(attr::RULE_EXPRESSIONS, &steps.0)
        .bytes(attr::RULE_USERDATA, &remark(&rule.comment));
    request(NEW_RULE, CREATE | APPEND, family, attrs)
}

/// The expressions of a rule: small steps over one register, until one does not hold.
#[derive(Default)]
struct Steps(Attrs);

impl Steps {
    fn add(&mut self, name: &str, data: Attrs) {
        let step = Attrs::new().text(attr::EXPR_NAME, name).nest(attr::EXPR_DATA, &data);
        self.0 = std::mem::take(&mut self.0).nest(attr::LIST_ELEMENT, &step);
    }

    fn test(&mut self, one: &Match) {
        match one {
            Match::Tcp => {
                self.load_fact(fact::L4_PROTOCOL);
                self.compare(op::EQUAL, &[TCP]);
            }
            Match::Port(range) => {
                self.load_bytes(base::TRANSPORT, TCP_DESTINATION, 2);
                let (first, last) = (range.start().to_be_bytes(), range.end().to_be_bytes());
                if first == last {
                    self.compare(op::EQUAL, &first);
                } else {
                    self.compare(op::AT_LEAST, &first);
                    self.compare(op::AT_MOST, &last);
                }
            }
            Match::Source(IpNet::V4(net)) => {
                self.load_bytes(base::NETWORK, IPV4_SOURCE, 4);
                self.compare_network(&net.netmask().octets(), &net.network().octets());
            }
            Match::Source(IpNet::V6(net)) => {
                self.load_bytes(base::NETWORK, IPV6_SOURCE, 16);
                self.compare_network(&net.netmask().octets(), &net.network().octets());
            }
            // Facts of the socket are in the machine's byte order.
            Match::Uid(uid) => {
                self.load_fact(fact::SOCKET_UID);
                self.compare(op::EQUAL, &uid.to_ne_bytes());
            }
            Match::Gid(gid) => {
                self.load_fact(fact::SOCKET_GID);
                self.compare(op::EQUAL, &gid.to_ne_bytes());
            }
            Match::Loopback => {
                self.load_fact(fact::OUT_NAME);
                let mut name = [0; INTERFACE_NAME];
                name[..2].copy_from_slice(b"lo");
                self.compare(op::EQUAL, &name);
            }
        }
    }

    fn decide(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Return => {
                let code = Attrs::new().number(attr::VERDICT_CODE, RETURN);
                let data = Attrs::new().nest(attr::DATA_VERDICT, &code);
                self.set(VERDICT_REGISTER, &data);
            }
            Verdict::Redirect(port) => {
                let data = Attrs::new().bytes(attr::DATA_VALUE, &port.get().to_be_bytes());
                self.set(REGISTER, &data);
                self.add("redir", Attrs::new().number(attr::REDIR_PORT, REGISTER));
            }
        }
    }

    fn load_fact(&mut self, key: u32) {
        let data = Attrs::new().number(attr::META_TO, REGISTER).number(attr::META_KEY, key);
        self.add("meta", data);
    }

    fn load_bytes(&mut self, base: u32, offset: u32, length: u32) {
        let data = Attrs::new()
            .number(attr::PAYLOAD_TO, REGISTER)
            .number(attr::PAYLOAD_BASE, base)
            .number(attr::PAYLOAD_OFFSET, offset)
            .number(attr::PAYLOAD_LENGTH, length);
        self.add("payload", data);
    }

    fn compare(&mut self, op: u32, value: &[u8]) {
        let data = Attrs::new()
            .number(attr::CMP_FROM, REGISTER)
            .number(attr::CMP_OP, op)
            .nest(attr::CMP_DATA, &Attrs::new().bytes(attr::DATA_VALUE, value));
        self.add("cmp", data);
    }

    fn compare_network(&mut self, mask: &[u8], network: &[u8]) {
        if mask.iter().any(|b| *b != 0xff) {
            let value = |bytes: &[u8]| Attrs::new().bytes(attr::DATA_VALUE, bytes);
            let length = u32::try_from(mask.len()).unwrap_or_default();
            let data = Attrs::new()
                .number(attr::BITWISE_FROM, REGISTER)
                .number(attr::BITWISE_TO, REGISTER)
                .number(attr::BITWISE_LENGTH, length)
                .nest(attr::BITWISE_MASK, &value(mask))
                .nest(attr::BITWISE_XOR, &value(&vec![0; mask.len()]));
            self.add("bitwise", data);
        }
        self.compare(op::EQUAL, network);
    }

    fn set(&mut self, register: u32, data: &Attrs) {
        let data =
            Attrs::new().number(attr::IMMEDIATE_TO, register).nest(attr::IMMEDIATE_DATA, data);
        self.add("immediate", data);
    }
}

/// A comment as `nft` reads it: kind 0, a length, the text with its zero.
fn remark(comment: &str) -> Vec<u8> {
    let text: String = comment.chars().filter(char::is_ascii).take(MAX_COMMENT).collect();
    let mut bytes = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

fn request(kind: u8, flags: u16, family: Family, attrs: Attrs) -> Message {
    let family = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    Message::new((NF_TABLES << 8) | u16::from(kind), flags, &[family, 0, 0, 0], attrs)
}

/// Begins or ends a transaction, which names the part of netfilter that it is for.
fn envelope(kind: u16) -> Message {
    let part = NF_TABLES.to_be_bytes();
    Message::new(kind, 0, &[0, 0, part[0], part[1]], Attrs::new())
}

// Numbers of the kernel's interface, from its headers nfnetlink.h and nf_tables.h.
const NF_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
/// The place of `nat PREROUTING` and `nat OUTPUT` of iptables.
const DESTINATION_NAT: i32 = -100;
const ACCEPT: u32 = 1;
/// -5 as the kernel writes it.
const RETURN: u32 = 0xffff_fffb;
const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
const TCP: u8 = 6;
const TCP_DESTINATION: u32 = 2;
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
const INTERFACE_NAME: usize = 16;
/// The longest comment that `nft` prints.
const MAX_COMMENT: usize = 127;

mod attr {
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const EXPR_NAME: u16 = 1;
    pub(super) const EXPR_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const META_TO: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_TO: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const CMP_FROM: u16 = 1;
    pub(super) const CMP_OP: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const BITWISE_FROM: u16 = 1;
    pub(super) const BITWISE_TO: u16 = 2;
    pub(super) const BITWISE_LENGTH: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const IMMEDIATE_TO: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const REDIR_PORT: u16 = 1;
}

mod fact {
    pub(super) const OUT_NAME: u32 = 7;
    pub(super) const SOCKET_UID: u32 = 10;
    pub(super) const SOCKET_GID: u32 = 11;
    pub(super) const L4_PROTOCOL: u32 = 16;
}

mod op {
    pub(super) const EQUAL: u32 = 0;
    pub(super) const AT_MOST: u32 = 3;
    pub(super) const AT_LEAST: u32 = 5;
}

mod base {
    pub(super) const NETWORK: u32 = 1;
    pub(super) const TRANSPORT: u32 = 2;
}

#[cfg(test)]
mod tests;
