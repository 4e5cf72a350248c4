//! # Filters of routes
//!
//! Job: what a route's rule does to a request besides sending it on: headers, redirects, failures made on
//! purpose. One kind for both directions and for HTTP and gRPC.
//! May touch: heads of requests and responses. Must not touch: bodies, clocks, randomness (a caller draws).
//! Callers: inbound and outbound policy, `wire`.

use crate::route::{PathMatch, RequestView, RouteMatch};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, uri};
use std::num::{NonZeroU16, NonZeroU32};

/// One step; a rule's filters act in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderModifier),
    /// Changes the response's headers.
    ResponseHeaders(HeaderModifier),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers some requests with a failure.
    Fail(Failure),
    /// A filter that could not be read, for this reason: obeying the others alone would be wrong, so
    /// every request fails.
    Unusable(String),
}

/// Headers to add, then to set, then to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Beside values that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Instead of values that are there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// Where a client is sent; what is not given stays as the request has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http`, `https`.
    pub scheme: Option<uri::Scheme>,
    /// Host without port.
    pub host: Option<String>,
    /// Port; with another scheme and no port, the scheme's own.
    pub port: Option<NonZeroU16>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Status of the answer, 300 to 399.
    pub status: StatusCode,
}

/// How a redirect changes the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// This path.
    Full(String),
    /// This in place of the prefix that matched.
    Prefix(String),
}

/// A failure made on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the client sees.
    pub kind: FailureKind,
    /// Why.
    pub message: String,
    /// Which share of requests.
    pub ratio: Ratio,
}

/// The form of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A status code.
    Http(StatusCode),
    /// A gRPC code.
    Grpc(u16),
}

/// A share of requests, at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// So many
    pub numerator: u32,
    /// of so many.
    pub denominator: NonZeroU32,
}

/// What the filters of a rule make of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'f> {
    /// It goes on.
    Pass,
    /// It is answered with this status and `location`.
    Redirect(StatusCode, Uri),
    /// It fails on purpose.
    Fail(&'f Failure),
    /// A filter cannot be obeyed, for this reason.
    Unusable(String),
}

/// A redirect that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirect {
    /// The parts make no URI.
    #[error("the redirect forms no valid location")]
    Location,
    /// A prefix is to be replaced where no prefix matched.
    #[error("a redirect that replaces a path prefix needs a match of a path prefix")]
    NoPrefix,
}

/// Applies the filters of a rule to a request that one of its `matches` let in. `draw` gives a random
/// number for each failure that strikes only a share.
pub fn apply<'f, B>(
    filters: &'f [Filter],
    matches: &[RouteMatch],
    request: &mut Request<B>,
    mut draw: impl FnMut() -> u32,
) -> Outcome<'f> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(modifier) => modifier.apply(request.headers_mut()),
            Filter::ResponseHeaders(_) => {}
            Filter::Redirect(redirect) => match redirect.location(matches, request) {
                Ok(Some(location)) => return Outcome::Redirect(redirect.status, location),
                Ok(None) => {}
                Err(invalid) => return Outcome::Unusable(invalid.to_string()),
            },
            Filter::Fail(failure) if failure.ratio.strikes(&mut draw) => {
                return Outcome::Fail(failure);
            }
            Filter::Fail(_) => {}
            Filter::Unusable(reason) => return Outcome::Unusable(reason.clone()),
        }
    }
    Outcome::Pass
}

/// Applies the filters of a rule to the response of a request that passed them.
pub fn apply_to_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(modifier) = filter {
            modifier.apply(headers);
        }
    }
}

impl HeaderModifier {
    /// Changes the headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl Ratio {
    /// Every request.
    pub const ALL: Self = Self { numerator: 1, denominator: NonZeroU32::MIN };

    /// Whether a request is struck; `draw` is asked only if neither none nor all are.
    pub fn strikes(self, draw: impl FnOnce() -> u32) -> bool {
        match self.numerator {
            0 => false,
            all if all >= self.denominator.get() => true,
            // draw / 2^32 < numerator / denominator
            some => u64::from(draw()) * u64::from(self.denominator.get()) < u64::from(some) << 32,
        }
    }
}

impl Redirect {
    /// Where the request is sent; `None` if that is where it is.
    ///
    /// # Errors
    /// When the parts form no URI, or a prefix is to be replaced and none matched.
    pub fn location<B>(
        &self,
        matches: &[RouteMatch],
        request: &Request<B>,
    ) -> Result<Option<Uri>, InvalidRedirect> {
        let view = RequestView::of(request);
        let from = request.uri();
        let old_scheme = from.scheme_str().unwrap_or("http");
        let scheme = self.scheme.as_ref().map_or(old_scheme, uri::Scheme::as_str);
        let host = self.host.as_deref().or(view.host).ok_or(InvalidRedirect::Location)?;
        let port = match (self.port, &self.host) {
            (Some(port), _) => Some(port.get()),
            (None, None) if scheme == old_scheme => port_of(request),
            (None, _) => None,
        };
        let path = match &self.path {
            None => view.path.to_owned(),
            Some(PathModifier::Full(path)) => path.clone(),
            Some(PathModifier::Prefix(new)) => {
                let length = matched_prefix(matches, &view).ok_or(InvalidRedirect::NoPrefix)?;
                match view.path.get(length..).unwrap_or_default() {
                    "" => new.clone(),
                    rest => format!("{}{rest}", new.trim_end_matches('/')),
                }
            }
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let query = view.query.map(|query| format!("?{query}")).unwrap_or_default();
        let bracketed = host.contains(':');
        let host = if bracketed { format!("[{host}]") } else { host.to_owned() };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let to: Uri = format!("{scheme}://{host}{port}{path}{query}")
            .parse()
            .map_err(|_| InvalidRedirect::Location)?;
        let same = to == *from
            || (from.scheme().is_none()
                && scheme == old_scheme
                && self.host.is_none()
                && self.port.is_none()
                && to.path_and_query() == from.path_and_query());
        Ok((!same).then_some(to))
    }
}

fn port_of<B>(request: &Request<B>) -> Option<u16> {
    if let Some(authority) = request.uri().authority() {
        return authority.port_u16();
    }
    let host = request.headers().get(http::header::HOST)?;
    uri::Authority::try_from(host.as_bytes()).ok()?.port_u16()
}

/// Length of the longest prefix among the matches that hold.
fn matched_prefix(matches: &[RouteMatch], request: &RequestView<'_>) -> Option<usize> {
    let of = |m: &RouteMatch| match &m.path {
        Some(PathMatch::Prefix(prefix)) => Some(prefix.trim_end_matches('/').len()),
        None => Some(0),
        Some(_) => None,
    };
    if matches.is_empty() {
        return Some(0);
    }
    matches.iter().filter(|m| m.matches(request)).filter_map(of).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(path: Option<PathModifier>) -> Redirect {
        let status = StatusCode::MOVED_PERMANENTLY;
        Redirect { scheme: None, host: None, port: None, path, status }
    }

    fn prefix(path: &str) -> Vec<RouteMatch> {
        vec![RouteMatch { path: Some(PathMatch::Prefix(path.into())), ..RouteMatch::default() }]
    }

    fn to(redirect: &Redirect, matches: &[RouteMatch], uri: &str) -> Option<String> {
        let request = Request::get(uri).header("host", "web:81").body(()).expect("a request");
        redirect.location(matches, &request).expect("a location").map(|uri| uri.to_string())
    }

    #[test]
    fn locations_change_what_is_given() {
        let here = redirect(None);
        assert_eq!(to(&here, &[], "/a?b"), None, "the same place is no redirect");
        assert_eq!(to(&here, &[], "http://web:81/a?b"), None);
        let secure = Redirect { scheme: Some(uri::Scheme::HTTPS), ..here.clone() };
        assert_eq!(to(&secure, &[], "/a?b").as_deref(), Some("https://web/a?b"));
        let port = Redirect { port: NonZeroU16::new(8443), ..secure.clone() };
        assert_eq!(to(&port, &[], "/a").as_deref(), Some("https://web:8443/a"));
        let host = Redirect { host: Some("other".into()), ..here };
        assert_eq!(to(&host, &[], "/a").as_deref(), Some("http://other/a"));
        let full = redirect(Some(PathModifier::Full("/x".into())));
        assert_eq!(to(&full, &[], "/a?b").as_deref(), Some("http://web:81/x?b"));
    }

    #[test]
    fn prefixes_are_replaced_on_segment_borders() {
        for (matched, new, path, expected) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo", "/"),
            ("/", "/v2", "/bar", "/v2/bar"),
        ] {
            let filter = redirect(Some(PathModifier::Prefix(new.into())));
            let got = to(&filter, &prefix(matched), path);
            assert_eq!(got.as_deref(), Some(&*format!("http://web:81{expected}")), "{path}");
        }
        let filter = redirect(Some(PathModifier::Prefix("/x".into())));
        let exact =
            [RouteMatch { path: Some(PathMatch::Exact("/a".into())), ..RouteMatch::default() }];
        let request = Request::get("http://web/a").body(()).expect("a request");
        assert_eq!(filter.location(&exact, &request), Err(InvalidRedirect::NoPrefix));
    }

    #[test]
    fn headers_are_added_then_set_then_removed() {
        let pair = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let modifier = HeaderModifier {
            add: vec![pair("a", "2"), pair("b", "2")],
            set: vec![pair("b", "3"), pair("c", "3")],
            remove: vec![HeaderName::from_static("c")],
        };
        let mut request = Request::get("/").header("a", "1").header("b", "1").body(());
        let request = request.as_mut().expect("a request");
        let filters = [Filter::RequestHeaders(modifier)];
        assert_eq!(apply(&filters, &[], request, || 0), Outcome::Pass);
        let values = |name| request.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("a"), ["1", "2"]);
        assert_eq!(values("b"), ["3"]);
        assert!(values("c").is_empty());
    }

    #[test]
    fn failures_strike_their_share() {
        let ratio = |numerator, denominator| Ratio {
            numerator,
            denominator: NonZeroU32::new(denominator).expect("not zero"),
        };
        let never = || panic!("no draw is needed");
        assert!(Ratio::ALL.strikes(never) && !ratio(0, 5).strikes(never));
        let quarter = ratio(1, 4);
        assert!(quarter.strikes(|| (1 << 30) - 1) && !quarter.strikes(|| 1 << 30));
    }
}
