//! # Tests of the encoding
//!
//! Job: bytes of messages against those that `nft` sends for the same rule. Callers: `cargo test`.

use super::*;
use std::num::NonZeroU16;

/// Attributes as a tree: a kind with bytes, or with attributes.
#[derive(Debug, PartialEq)]
enum Tree {
    Leaf(u16, Vec<u8>),
    Node(u16, Vec<Tree>),
}

fn tree(mut bytes: &[u8]) -> Vec<Tree> {
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let value = &bytes[4..length];
        found.push(match kind & 0x8000 {
            0 => Tree::Leaf(kind, value.to_vec()),
            _ => Tree::Node(kind & 0x7fff, tree(value)),
        });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

/// The expressions of a rule by name and data.
fn expressions(rule: &Rule) -> Vec<(String, Vec<Tree>)> {
    let chain = Chain { name: "C", hook: Hook::Output, rules: vec![] };
    let bytes = crate::netlink::encode(&[new_rule(Family::V4, &chain, rule)]);
    let list = tree(&bytes[20..]).into_iter().find_map(|t| match t {
        Tree::Node(attr::RULE_EXPRESSIONS, list) => Some(list),
        _ => None,
    });
    let one = |element| match element {
        Tree::Node(1, mut parts) => match (parts.remove(0), parts.remove(0)) {
            (Tree::Leaf(1, name), Tree::Node(2, data)) => {
                (String::from_utf8(name[..name.len() - 1].to_vec()).unwrap(), data)
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    list.unwrap().into_iter().map(one).collect()
}

fn number(kind: u16, value: u32) -> Tree {
    Tree::Leaf(kind, value.to_be_bytes().to_vec())
}

fn value(kind: u16, bytes: &[u8]) -> Tree {
    Tree::Node(kind, vec![Tree::Leaf(1, bytes.to_vec())])
}

fn rule(matches: Vec<Match>, verdict: Verdict) -> Rule {
    Rule { matches, verdict, comment: "proxy-init/x".into() }
}

// proves: INIT-1
#[test]
fn a_redirect_loads_the_protocol_compares_and_sets_the_port() {
    let to = Verdict::Redirect(NonZeroU16::new(4143).unwrap());
    let expected = [
        ("meta", vec![number(1, 1), number(2, 16)]),
        ("cmp", vec![number(1, 1), number(2, 0), value(3, &[6])]),
        ("counter", vec![]),
        ("immediate", vec![number(1, 1), value(2, &4143_u16.to_be_bytes())]),
        ("redir", vec![number(1, 1)]),
    ];
    let expected = expected.map(|(name, data)| (name.to_owned(), data));
    assert_eq!(expressions(&rule(vec![Match::Tcp], to)), expected);
}

// proves: INIT-1
#[test]
fn ports_networks_users_and_loopback_are_compared() {
    let data = |one: Match| {
        let mut all = expressions(&rule(vec![one], Verdict::Return));
        all.truncate(all.len() - 2);
        all
    };
    let named = |name: &str, data| (name.to_owned(), data);
    let compare =
        |op, bytes: &[u8]| named("cmp", vec![number(1, 1), number(2, op), value(3, bytes)]);
    let payload = |base, offset, length| {
        let place = vec![number(1, 1), number(2, base), number(3, offset), number(4, length)];
        named("payload", place)
    };
    let port = payload(2, 2, 2);
    assert_eq!(data(Match::Port(80..=80)), [port, compare(0, &[0, 80])]);
    let range = [payload(2, 2, 2), compare(5, &[0, 80]), compare(3, &[0, 81])];
    assert_eq!(data(Match::Port(80..=81)), range);
    let whole = data(Match::Source("10.1.2.3/32".parse().unwrap()));
    assert_eq!(whole, [payload(1, 12, 4), compare(0, &[10, 1, 2, 3])]);
    let part = data(Match::Source("10.1.0.0/12".parse().unwrap()));
    let mask = vec![
        number(1, 1),
        number(2, 1),
        number(3, 4),
        value(4, &[255, 240, 0, 0]),
        value(5, &[0; 4]),
    ];
    assert_eq!(part, [payload(1, 12, 4), named("bitwise", mask), compare(0, &[10, 0, 0, 0])]);
    let v6 = data(Match::Source("fd00::/8".parse().unwrap()));
    assert_eq!((v6.len(), &v6[0]), (3, &payload(1, 8, 16)));
    let meta = |key| named("meta", vec![number(1, 1), number(2, key)]);
    assert_eq!(data(Match::Uid(2102)), [meta(10), compare(0, &2102_u32.to_ne_bytes())]);
    assert_eq!(data(Match::Gid(7)), [meta(11), compare(0, &7_u32.to_ne_bytes())]);
    let lo = data(Match::Loopback);
    assert_eq!(lo, [meta(7), compare(0, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0")]);
}

#[test]
fn return_is_a_verdict_and_comments_are_cut() {
    let all = expressions(&rule(vec![Match::Loopback], Verdict::Return));
    let verdict = Tree::Node(2, vec![Tree::Node(2, vec![number(1, 0xffff_fffb)])]);
    assert_eq!(all.last().unwrap(), &("immediate".to_owned(), vec![number(1, 0), verdict]));
    assert_eq!(remark("ab"), [0, 3, b'a', b'b', 0]);
    assert_eq!(remark(&"x".repeat(500)).len(), 2 + 127 + 1);
}

// proves: INIT-2
#[test]
fn one_transaction_removes_the_old_table_and_makes_the_new_one() {
    let chain = Chain {
        name: "C",
        hook: Hook::Output,
        rules: vec![rule(vec![Match::Loopback], Verdict::Return)],
    };
    let (messages, steps) = transaction(&[Table { family: Family::V4, chains: vec![chain] }]);
    assert_eq!(messages.len(), steps.len());
    let bytes = crate::netlink::encode(&messages);
    let mut kinds = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let flags = u16::from_ne_bytes(bytes[at + 6..at + 8].try_into().unwrap());
        let kind = u16::from_ne_bytes(bytes[at + 4..at + 6].try_into().unwrap());
        kinds.push((kind, flags & crate::netlink::ACK != 0));
        at += usize::try_from(length).unwrap().next_multiple_of(4);
    }
    let nf = |kind: u8| (NF_TABLES << 8) | u16::from(kind);
    let expected = [
        (BATCH_BEGIN, false),
        (nf(NEW_TABLE), false),
        (nf(DELETE_TABLE), false),
        (nf(NEW_TABLE), false),
        (nf(NEW_CHAIN), false),
        (nf(NEW_RULE), true),
        (BATCH_END, false),
    ];
    assert_eq!(kinds, expected);
}
