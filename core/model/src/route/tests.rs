//! # Tests of route matching
//!
//! Job: each rule of precedence and each kind of match, as rows. Callers: `cargo test`.

use super::*;

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

fn path(path: PathMatch) -> RouteMatch {
    RouteMatch { path: Some(path), ..RouteMatch::default() }
}

fn prefix(p: &str) -> RouteMatch {
    path(PathMatch::Prefix(p.into()))
}

fn regex(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

fn get(uri: &str) -> http::Request<()> {
    http::Request::get(uri).body(()).unwrap()
}

fn fits(rule: &RouteMatch, request: &http::Request<()>) -> bool {
    rule.matches(&RequestView::of(request))
}

fn chosen(routes: &[Row], request: &http::Request<()>) -> Option<(usize, usize)> {
    let found = choose(routes, &RequestView::of(request))?;
    let at = routes.iter().position(|r| std::ptr::eq(r, found.route))?;
    Some((at, found.rule))
}

fn any_host(rules: Vec<Vec<RouteMatch>>) -> Row {
    Row { hosts: vec![], rules }
}

#[test]
fn prefixes_end_on_segment_borders() {
    for (rule, uri, expected) in [
        ("/", "/any/thing", true),
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a/", "/a", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/b", "/a", false),
    ] {
        assert_eq!(fits(&prefix(rule), &get(uri)), expected, "{rule} {uri}");
    }
}

#[test]
fn regexes_cover_the_whole_value() {
    let rule = path(PathMatch::Regex(regex("/a|/ab")));
    assert!(fits(&rule, &get("/ab")), "the longer alternative counts too");
    assert!(!fits(&rule, &get("/abc")) && !fits(&rule, &get("/x/ab")));
    assert!(Pattern::new("a)|(b").is_err() && Pattern::new("(").is_err());
    assert!(Pattern::new("(a{1000}){1000}").is_err(), "bounded in size");
    assert!(!regex("a.c").covers("a\nc") && regex("(?s)a.c").covers("a\nc"));
}

#[test]
fn headers_match_any_of_repeated_values() {
    let rule = RouteMatch {
        headers: vec![("x-v".into(), ValueMatch::Regex(regex("[0-9]+")))],
        ..RouteMatch::default()
    };
    let of = |values: &[&str]| {
        let mut builder = http::Request::get("/");
        for v in values {
            builder = builder.header("x-v", *v);
        }
        builder.body(()).unwrap()
    };
    assert!(fits(&rule, &of(&["abc", "42"])));
    assert!(!fits(&rule, &of(&["abc", "42x"])) && !fits(&rule, &of(&[])));
}

#[test]
fn query_parameters_are_form_decoded() {
    let rule = RouteMatch {
        query: vec![("a b".into(), ValueMatch::Exact("x&=ü".into()))],
        ..RouteMatch::default()
    };
    assert!(fits(&rule, &get("/?z=1&a+b=x%26%3D%C3%BC")));
    assert!(!fits(&rule, &get("/?a+b=x")) && !fits(&rule, &get("/")));
    assert!(!fits(&rule, &get("/?a%=%zz")), "broken escapes stay as they are");
}

#[test]
fn rpc_paths_need_post() {
    let rule = path(PathMatch::Rpc { service: Some("pkg.S".into()), method: None });
    let post = |uri: &str| http::Request::post(uri).body(()).unwrap();
    assert!(fits(&rule, &post("/pkg.S/Call")));
    assert!(!fits(&rule, &get("/pkg.S/Call")) && !fits(&rule, &post("/pkg.T/Call")));
}

// proves: ROUTE-1
#[test]
fn the_more_specific_wins_and_ties_go_to_the_first() {
    let with_header =
        RouteMatch { headers: vec![("x".into(), ValueMatch::Exact("1".into()))], ..prefix("/a") };
    let with_query =
        RouteMatch { query: vec![("q".into(), ValueMatch::Exact("1".into()))], ..prefix("/a") };
    let with_method = RouteMatch { method: Some("GET".into()), ..prefix("/a") };
    let routes = [any_host(vec![
        vec![prefix("/")],
        vec![prefix("/a")],
        vec![with_method],
        vec![with_query],
        vec![with_header],
        vec![path(PathMatch::Exact("/a/b".into())), prefix("/a/b")],
    ])];
    let with = |uri: &str, header: bool| {
        let builder = http::Request::get(uri);
        let builder = if header { builder.header("x", "1") } else { builder };
        chosen(&routes, &builder.body(()).unwrap()).unwrap().1
    };
    assert_eq!(with("/z", true), 0);
    assert_eq!(with("/a", false), 2, "method");
    assert_eq!(with("/a?q=1", false), 3, "query over method");
    assert_eq!(with("/a?q=1", true), 4, "header over query");
    assert_eq!(with("/a/b?q=1", true), 5, "path over headers");
    let twins = [any_host(vec![vec![prefix("/a")]]), any_host(vec![vec![prefix("/a/")]])];
    assert_eq!(chosen(&twins, &get("/a")), Some((0, 0)));
    assert_eq!(chosen(&twins, &get("/b")), None);
}

#[test]
fn hosts_narrow_before_paths() {
    let suffix = |t: &str| HostMatch::Suffix(t.split('.').map(str::to_owned).collect());
    let routes = [
        any_host(vec![vec![path(PathMatch::Exact("/long/path".into()))]]),
        Row { hosts: vec![suffix("com")], rules: vec![vec![]] },
        Row { hosts: vec![suffix("example.com")], rules: vec![vec![]] },
        Row { hosts: vec![HostMatch::Exact("A.example.com.".into())], rules: vec![vec![]] },
    ];
    let at = |uri: &str| chosen(&routes, &get(uri)).map(|(route, _)| route);
    assert_eq!(at("http://a.EXAMPLE.com:81/long/path"), Some(3));
    assert_eq!(at("http://b.example.com/long/path"), Some(2));
    assert_eq!(at("http://example.com/"), Some(1), "a suffix needs one label more");
    assert_eq!(at("/long/path"), Some(0));
    assert_eq!(at("/other"), None);
}

#[test]
fn the_host_header_counts_when_the_uri_has_no_authority() {
    let request = http::Request::get("/").header("host", "[::1]:80").body(()).unwrap();
    assert_eq!(RequestView::of(&request).host, Some("::1"));
    let request = http::Request::get("/").header("host", "a.b:80").body(()).unwrap();
    assert_eq!(RequestView::of(&request).host, Some("a.b"));
}
