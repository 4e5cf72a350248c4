//! # Route table
//!
//! Job: the same choice as [`choose`](super::choose), made fast: routes are indexed by host once, and a
//! table whose one rule takes everything does not look at requests at all.
//! May touch: values. Must not touch: what routes lead to. Callers: the policies that inbound obeys, the
//! outbound router.

use super::{
    Chosen, HostMatch, PathMatch, RequestView, Route, RouteMatch, Specificity, match_rule,
};
use std::{borrow::Cow, cmp::Reverse, collections::HashMap};

/// Routes, ready to be looked up.
#[derive(Debug)]
pub struct RouteTable<R> {
    routes: Vec<R>,
    /// Routes by exact host, lower case, without trailing dot.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Longest first.
    suffixes: Vec<(Vec<String>, Vec<usize>)>,
    any: Vec<usize>,
    /// The first rule of the first route takes every request.
    catch_all: bool,
}

impl<R: Route> RouteTable<R> {
    /// Indexes routes.
    pub fn new(routes: Vec<R>) -> Self {
        let (mut exact, mut any) = (HashMap::<Box<str>, Vec<usize>>::new(), Vec::new());
        let mut suffixes = Vec::<(Vec<String>, Vec<usize>)>::new();
        for (at, route) in routes.iter().enumerate() {
            if route.hosts().is_empty() {
                any.push(at);
            }
            for host in route.hosts() {
                let list = match host {
                    HostMatch::Exact(name) => exact.entry(canonical(name).into()).or_default(),
                    HostMatch::Suffix(labels) => {
                        let labels: Vec<_> =
                            labels.iter().map(|label| label.to_ascii_lowercase()).collect();
                        match suffixes.iter().position(|(known, _)| *known == labels) {
                            Some(found) => &mut suffixes[found].1,
                            None => {
                                suffixes.push((labels, Vec::new()));
                                let last = suffixes.len() - 1;
                                &mut suffixes[last].1
                            }
                        }
                    }
                };
                // A route may name the same host twice.
                if list.last() != Some(&at) {
                    list.push(at);
                }
            }
        }
        suffixes.sort_by_key(|(labels, _)| Reverse(labels.iter().map(String::len).sum::<usize>()));
        let catch_all = match &routes[..] {
            [one] => one.hosts().is_empty() && one.rules().map(takes_all).eq([true]),
            _ => false,
        };
        Self { routes, exact, suffixes, any, catch_all }
    }

    /// The most specific rule for a request; see [`choose`](super::choose).
    pub fn choose<'a>(&self, view: impl FnOnce() -> RequestView<'a>) -> Option<Chosen<'_, R>> {
        if self.catch_all {
            return self.routes.first().map(|route| Chosen { route, rule: 0 });
        }
        let request = view();
        self.groups(request.host).find_map(|group| self.best(group, &request))
    }

    /// The route for a name alone, such as a TLS client asks for, or for no name.
    pub fn by_name(&self, name: Option<&str>) -> Option<&R> {
        self.groups(name).find_map(|group| self.routes.get(*group.first()?))
    }

    /// All routes, in order.
    pub fn routes(&self) -> &[R] {
        &self.routes
    }

    /// Indices of the routes whose hosts match, in groups of equal rank, the most specific first.
    fn groups<'t>(&'t self, host: Option<&str>) -> impl Iterator<Item = &'t [usize]> {
        let host = host.map(canonical);
        let exact = match &host {
            Some(host) if !self.exact.is_empty() => self.exact.get(&**host),
            _ => None,
        };
        let suffixes = self
            .suffixes
            .iter()
            .filter(move |(labels, _)| host.as_deref().is_some_and(|host| is_under(host, labels)));
        let suffixes = suffixes.map(|(_, group)| &**group);
        exact.map(Vec::as_slice).into_iter().chain(suffixes).chain([&*self.any])
    }

    fn best(&self, group: &[usize], request: &RequestView<'_>) -> Option<Chosen<'_, R>> {
        let mut best: Option<(Specificity, Chosen<'_, R>)> = None;
        for route in group.iter().filter_map(|at| self.routes.get(*at)) {
            for (rule, matches) in route.rules().enumerate() {
                let Some(rank) = match_rule(matches, request) else { continue };
                if best.as_ref().is_none_or(|(found, _)| rank > *found) {
                    best = Some((rank, Chosen { route, rule }));
                }
            }
        }
        best.map(|(_, chosen)| chosen)
    }
}

/// As keys have it; no copy if it is so already.
fn canonical(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// Whether a host has these labels at its end, and one more.
fn is_under(host: &str, labels: &[String]) -> bool {
    let mut rest = host.rsplit('.');
    labels.iter().rev().all(|label| rest.next() == Some(label)) && rest.next().is_some()
}

/// Whether a rule takes every request.
fn takes_all(matches: &[RouteMatch]) -> bool {
    let all = |m: &RouteMatch| {
        let any_path = match &m.path {
            None => true,
            Some(PathMatch::Prefix(prefix)) => prefix.trim_end_matches('/').is_empty(),
            Some(_) => false,
        };
        any_path && m.headers.is_empty() && m.query.is_empty() && m.method.is_none()
    };
    matches.is_empty() || matches.iter().any(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
