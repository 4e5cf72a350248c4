//! # HTTP route matching
//!
//! Job: match rules of HTTP and gRPC routes, compiled once, and the choice of the most specific one
//! for a request, for both directions.
//! May touch: values, regexes, request heads. Must not touch: bodies, sockets.
//! Callers: inbound and outbound policy, `wire`.

mod table;

pub use self::table::RouteTable;

use std::{borrow::Cow, cmp::Ordering, fmt};

/// One condition of a rule: all of its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Path rule; `None` matches all.
    pub path: Option<PathMatch>,
    /// Headers that must match, by lower-case name.
    pub headers: Vec<(String, ValueMatch)>,
    /// Query parameters that must match.
    pub query: Vec<(String, ValueMatch)>,
    /// Method, upper-case.
    pub method: Option<String>,
}

/// Path rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Whole path.
    Exact(String),
    /// On a segment border; a trailing slash on either side does not count.
    Prefix(String),
    /// Regular expression over the whole path.
    Regex(Pattern),
    /// A gRPC call: POST to `/service/method`; an absent part matches any.
    Rpc {
        /// Full service name.
        service: Option<String>,
        /// Method name.
        method: Option<String>,
    },
}

/// Value rule of a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(String),
    /// Regular expression over the whole value.
    Regex(Pattern),
}

/// Host rule of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// This name; compared without case and trailing dot.
    Exact(String),
    /// Names with at least one label more than these (`*.example.com` is `["example", "com"]`).
    Suffix(Vec<String>),
}

/// A regular expression that must cover the whole value. Two are equal when their texts are.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: regex::Regex,
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a usable regular expression: {reason}")]
pub struct InvalidPattern {
    text: String,
    reason: String,
}

/// The head of a request as far as routes look at it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Host without port, from the URI's authority or the `host` header.
    pub host: Option<&'a str>,
    /// Path, never empty.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
    /// Method.
    pub method: &'a http::Method,
    /// Headers.
    pub headers: &'a http::HeaderMap,
}

/// What route choice needs to know of a route, whatever its direction and kind.
pub trait Route {
    /// Hosts; empty matches all.
    fn hosts(&self) -> &[HostMatch];
    /// Matches of each rule, in order; an empty list is "path prefix /".
    fn rules(&self) -> impl Iterator<Item = &[RouteMatch]>;
}

/// The chosen route and the index of its rule that matched.
#[derive(Debug)]
pub struct Chosen<'r, R> {
    /// The route.
    pub route: &'r R,
    /// Index of the rule in the route.
    pub rule: usize,
}

/// The most specific match among `routes`: exact host over suffix, longer suffix, longer path, more
/// headers, more query parameters, a method; the first of equals (Gateway API's precedence, as
/// Linkerd's proxy applies it). This is the rule in its plainest form: proxies choose by a [`RouteTable`],
/// which tests hold against it.
pub fn choose<'r, R: Route>(routes: &'r [R], request: &RequestView<'_>) -> Option<Chosen<'r, R>> {
    let mut best: Option<(Specificity, Chosen<'r, R>)> = None;
    for route in routes {
        let Some(host) = match_hosts(route.hosts(), request.host) else { continue };
        for (rule, matches) in route.rules().enumerate() {
            let Some(mut rank) = match_rule(matches, request) else { continue };
            rank.host = host;
            if best.as_ref().is_none_or(|(found, _)| rank.cmp(found) == Ordering::Greater) {
                best = Some((rank, Chosen { route, rule }));
            }
        }
    }
    best.map(|(_, chosen)| chosen)
}

/// How specific a match is; the order of the fields is the order of precedence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    host: HostRank,
    path: usize,
    headers: usize,
    query: usize,
    method: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    #[default]
    Any,
    Suffix(usize),
    Exact,
}

fn match_hosts(hosts: &[HostMatch], host: Option<&str>) -> Option<HostRank> {
    if hosts.is_empty() {
        return Some(HostRank::Any);
    }
    let host = host?;
    hosts.iter().filter_map(|rule| rule.rank(host)).max()
}

fn match_rule(matches: &[RouteMatch], request: &RequestView<'_>) -> Option<Specificity> {
    if matches.is_empty() {
        return Some(Specificity { path: 1, ..Specificity::default() });
    }
    matches.iter().filter_map(|m| m.rank(request)).max()
}

impl RouteMatch {
    /// Whether the request fulfils this condition.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.rank(request).is_some()
    }

    fn rank(&self, request: &RequestView<'_>) -> Option<Specificity> {
        if self.method.as_deref().is_some_and(|m| m != request.method.as_str()) {
            return None;
        }
        let path = match &self.path {
            None => 0,
            Some(rule) => rule.matched_length(request)?,
        };
        let header_holds = |(name, rule): &(String, ValueMatch)| {
            request.headers.get_all(name).iter().any(|v| rule.matches_bytes(v.as_bytes()))
        };
        if !self.headers.iter().all(header_holds) {
            return None;
        }
        let query_holds = |(name, rule): &(String, ValueMatch)| {
            form_pairs(request.query.unwrap_or_default())
                .any(|(key, value)| key == *name && rule.matches_text(&value))
        };
        if !self.query.iter().all(query_holds) {
            return None;
        }
        Some(Specificity {
            host: HostRank::Any,
            path,
            headers: self.headers.len(),
            query: self.query.len(),
            method: self.method.is_some(),
        })
    }
}

impl PathMatch {
    fn matched_length(&self, request: &RequestView<'_>) -> Option<usize> {
        let path = request.path;
        match self {
            Self::Exact(exact) => (exact == path).then_some(path.len()),
            Self::Regex(pattern) => pattern.covers(path).then_some(path.len()),
            Self::Prefix(prefix) => {
                let bare = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(bare)?;
                (rest.is_empty() || rest.starts_with('/')).then_some(bare.len().max(1))
            }
            Self::Rpc { service, method } => {
                if request.method != http::Method::POST {
                    return None;
                }
                let (s, m) = path.strip_prefix('/')?.split_once('/')?;
                let fits =
                    |want: &Option<String>, got: &str| want.as_deref().is_none_or(|w| w == got);
                if !fits(service, s) || !fits(method, m) {
                    return None;
                }
                let length = |part: &Option<String>| part.as_ref().map_or(0, String::len);
                Some(length(service) + length(method))
            }
        }
    }
}

impl ValueMatch {
    fn matches_bytes(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|v| pattern.covers(v)),
        }
    }

    fn matches_text(&self, value: &str) -> bool {
        self.matches_bytes(value.as_bytes())
    }
}

impl HostMatch {
    fn rank(&self, host: &str) -> Option<HostRank> {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Exact(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name.eq_ignore_ascii_case(host).then_some(HostRank::Exact)
            }
            Self::Suffix(labels) => {
                let mut rest = host.rsplit('.');
                for label in labels.iter().rev() {
                    if !rest.next()?.eq_ignore_ascii_case(label) {
                        return None;
                    }
                }
                rest.next()?;
                Some(HostRank::Suffix(labels.iter().map(String::len).sum()))
            }
        }
    }
}

impl Pattern {
    /// Compiles a regular expression.
    ///
    /// # Errors
    /// When the expression is malformed or needs more than 1 MiB compiled.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        let compile = |text: &str| {
            regex::RegexBuilder::new(text).size_limit(1 << 20).build().map_err(|e| e.to_string())
        };
        // The text is compiled alone first: `a)|(b` is malformed and must not become valid by the wrapping.
        compile(text)
            .and_then(|_| compile(&format!(r"\A(?:{text})\z")))
            .map(|regex| Self { text: text.to_owned(), regex })
            .map_err(|reason| InvalidPattern { text: text.chars().take(200).collect(), reason })
    }

    /// The expression as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the expression covers all of `value`.
    pub fn covers(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl<'a> RequestView<'a> {
    /// The view of a request; the host comes from the URI, else from the `host` header.
    pub fn of<B>(request: &'a http::Request<B>) -> Self {
        let of_header = || request.headers().get(http::header::HOST)?.to_str().ok();
        let authority = request.uri().authority().map(|a| a.as_str()).or_else(of_header);
        let path = request.uri().path();
        Self {
            host: authority.map(host_of),
            path: if path.is_empty() { "/" } else { path },
            query: request.uri().query(),
            method: request.method(),
            headers: request.headers(),
        }
    }
}

/// The host of `[userinfo@]host[:port]`, with brackets around an IPv6 address removed.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or(v6, |(ip, _)| ip),
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    }
}

/// Pairs of an `application/x-www-form-urlencoded` text, decoded.
fn form_pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(key), form_decode(value))
    })
}

fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let (decoded, used) = match (byte, hex(at + 1), hex(at + 2)) {
            // Two hex digits are at most 255, so the cast keeps the value.
            (b'%', Some(high), Some(low)) => ((high * 16 + low) as u8, 3),
            (b'+', ..) => (b' ', 1),
            (other, ..) => (*other, 1),
        };
        out.push(decoded);
        at += used;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests;
