//! # The table against the obvious choice
//!
//! Job: random routes and requests from a small world, where matches are likely; the table must choose
//! what `choose` does. Callers: `cargo test`.

use super::*;
use crate::route::{Pattern, ValueMatch, choose};
use http::{HeaderMap, Method};
use proptest::{collection::vec, option, prelude::*, sample::select};

#[derive(Clone, Debug)]
struct Row {
    hosts: Vec<HostMatch>,
    rules: Vec<Vec<RouteMatch>>,
}

impl Route for Row {
    fn hosts(&self) -> &[HostMatch] {
        &self.hosts
    }
    fn rules(&self) -> impl Iterator<Item = &[RouteMatch]> {
        self.rules.iter().map(Vec::as_slice)
    }
}

#[derive(Clone, Debug)]
struct Asked {
    host: Option<String>,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

impl Asked {
    fn view(&self) -> RequestView<'_> {
        RequestView {
            host: self.host.as_deref(),
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

const LABELS: [&str; 3] = ["a", "b", "Ab"];

fn host() -> impl Strategy<Value = String> {
    (vec(select(&LABELS[..]), 1..4), select(vec!["", "."]))
        .prop_map(|(labels, dot)| labels.join(".") + dot)
}

fn host_match() -> impl Strategy<Value = HostMatch> {
    let labels = vec(select(&LABELS[..]).prop_map(str::to_owned), 1..3);
    prop_oneof![host().prop_map(HostMatch::Exact), labels.prop_map(HostMatch::Suffix)]
}

fn path() -> impl Strategy<Value = String> {
    (vec(select(vec!["a", "ab", "b"]), 0..3), any::<bool>())
        .prop_map(|(parts, slash)| format!("/{}{}", parts.join("/"), if slash { "/" } else { "" }))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let regex = select(vec!["/a.*", "/(a|ab)", ".*", "/b/?"]);
    let part = || option::of(select(vec!["a", "ab"]).prop_map(str::to_owned));
    prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        regex.prop_map(|r| PathMatch::Regex(Pattern::new(r).unwrap())),
        (part(), part()).prop_map(|(service, method)| PathMatch::Rpc { service, method }),
    ]
}

fn values() -> impl Strategy<Value = Vec<(String, ValueMatch)>> {
    let value = prop_oneof![
        select(vec!["1", "2"]).prop_map(|v| ValueMatch::Exact(v.into())),
        Just(ValueMatch::Regex(Pattern::new("[0-9]").unwrap())),
    ];
    vec((select(vec!["x", "y"]).prop_map(str::to_owned), value), 0..2)
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let method = option::of(select(vec!["GET", "POST"]).prop_map(str::to_owned));
    (option::of(path_match()), values(), values(), method)
        .prop_map(|(path, headers, query, method)| RouteMatch { path, headers, query, method })
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (vec(host_match(), 0..3), vec(vec(route_match(), 0..3), 0..4))
        .prop_map(|(hosts, rules)| Row { hosts, rules });
    vec(row, 0..5)
}

fn asked() -> impl Strategy<Value = Asked> {
    let pair = || (select(vec!["x", "y"]), select(vec!["1", "2", "z"]));
    let parts = (option::of(host()), path(), vec(pair(), 0..3), vec(pair(), 0..3), any::<bool>());
    parts.prop_map(|(host, path, query, fields, post)| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        let query: Vec<_> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let query = (!query.is_empty()).then(|| query.join("&"));
        let method = if post { Method::POST } else { Method::GET };
        Asked { host, path, query, method, headers }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // proves: ROUTE-2
    #[test]
    fn the_table_chooses_what_a_look_at_every_rule_chooses(rows in rows(), asked in asked()) {
        let at = |rows: &[Row], found: Option<Chosen<'_, Row>>| {
            let found = found?;
            let route = rows.iter().position(|row| std::ptr::eq(row, found.route))?;
            Some((route, found.rule))
        };
        let expected = at(&rows, choose(&rows, &asked.view()));
        let table = RouteTable::new(rows);
        let found = at(table.routes(), table.choose(|| asked.view()));
        prop_assert_eq!(found, expected);
    }
}

// proves: ROUTE-2
#[test]
fn a_rule_for_everything_needs_no_look_at_the_request() {
    let all = || RouteMatch { path: Some(PathMatch::Prefix("/".into())), ..RouteMatch::default() };
    let row = |hosts: Vec<HostMatch>, rules| Row { hosts, rules };
    for rules in [vec![vec![]], vec![vec![all()]], vec![vec![RouteMatch::default()]]] {
        let table = RouteTable::new(vec![row(vec![], rules)]);
        assert!(table.choose(|| panic!("not looked at")).is_some());
    }
    let named = row(vec![HostMatch::Exact("a.b".into())], vec![vec![]]);
    assert!(!RouteTable::new(vec![named]).catch_all);
    assert!(!RouteTable::new(vec![row(vec![], vec![vec![all()], vec![]])]).catch_all);
}

// proves: ROUTE-3
#[test]
fn names_of_tls_clients_find_their_route() {
    let exact = |n: &str| HostMatch::Exact(n.into());
    let suffix = |n: &str| HostMatch::Suffix(n.split('.').map(str::to_owned).collect());
    let row = |hosts| Row { hosts, rules: vec![vec![]] };
    let rows = vec![
        row(vec![suffix("com")]),
        row(vec![suffix("example.com"), exact("b.org")]),
        row(vec![exact("www.Example.com")]),
    ];
    let find = |table: &RouteTable<Row>, name: &str| {
        let found = table.by_name(Some(name))?;
        table.routes().iter().position(|r| std::ptr::eq(r, found))
    };
    let table = RouteTable::new(rows.clone());
    for (name, expected) in [
        ("WWW.example.com", Some(2)),
        ("x.example.com", Some(1)),
        ("example.com", Some(0)),
        ("b.org", Some(1)),
        ("c.b.org", None),
    ] {
        assert_eq!(find(&table, name), expected, "{name}");
    }
    assert!(table.by_name(None).is_none());
    let table = RouteTable::new([rows, vec![row(vec![])]].concat());
    assert_eq!(find(&table, "c.b.org"), Some(3));
    assert!(table.by_name(None).is_some());
}
