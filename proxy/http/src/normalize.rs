//! # Request targets
//!
//! Job: give every request a target with an authority, and remember the form in which it came.
//! May touch: URI and `host`. Must not touch: routing. Callers: servers (mark), routers, clients.

use crate::error::Error;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header, uri};

/// Marks a request whose target came in absolute form (`GET http://a/b`), which stays so end to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsoluteForm;

/// Marks a request that named no host: its connection is never shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHost;

/// Checks the target form of an HTTP/1 request and marks absolute form; sets `host` from the target only
/// if it is missing, and only in absolute form.
///
/// # Errors
/// CONNECT on HTTP/1.0 or without an authority-form target; another method with one.
pub fn mark<B>(request: &mut Request<B>) -> Result<(), Error> {
    let uri = request.uri();
    let authority_form = uri.scheme().is_none() && uri.authority().is_some();
    if request.method() == Method::CONNECT {
        if request.version() != Version::HTTP_11 {
            return Err(Error::Malformed("CONNECT is not a method of this HTTP version"));
        }
        if !authority_form || uri.path_and_query().is_some_and(|p| p.as_str() != "") {
            return Err(Error::Malformed("CONNECT needs a target of the form host:port"));
        }
        return Ok(());
    }
    if authority_form {
        return Err(Error::Malformed("only CONNECT may have a target of the form host:port"));
    }
    if uri.scheme().is_some() {
        if let Some(host) =
            uri.authority().filter(|_| !request.headers().contains_key(header::HOST))
            && let Ok(value) = HeaderValue::from_str(without_userinfo(host.as_str()))
        {
            request.headers_mut().insert(header::HOST, value);
        }
        request.extensions_mut().insert(AbsoluteForm);
    } else if !request.headers().contains_key(header::HOST) {
        request.extensions_mut().insert(NoHost);
    }
    Ok(())
}

/// Gives the target an authority: its own, else `host`, else `default`. CONNECT stays as it is.
///
/// # Errors
/// When `host` is no authority.
pub fn normalize<B>(
    request: &mut Request<B>,
    default: impl FnOnce() -> Option<uri::Authority>,
) -> Result<(), Error> {
    if request.uri().authority().is_some() {
        return Ok(());
    }
    let authority = match host(request.headers())? {
        Some(host) => host,
        None => default().ok_or(Error::Malformed("the request names no host"))?,
    };
    set_authority(request, authority);
    Ok(())
}

/// Replaces the authority of the target, keeping path and query; the scheme becomes http if there is none.
pub fn set_authority<B>(request: &mut Request<B>, authority: uri::Authority) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority);
    if parts.path_and_query.is_none() && parts.scheme.is_none() {
        // Authority form, as CONNECT has it.
        *request.uri_mut() = uri_of(parts);
        return;
    }
    parts.scheme.get_or_insert(uri::Scheme::HTTP);
    parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = uri_of(parts);
}

/// The authority that `host` names, if the header is there and not empty.
///
/// # Errors
/// When it is no authority.
pub fn host(headers: &HeaderMap) -> Result<Option<uri::Authority>, Error> {
    match headers.get(header::HOST) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => uri::Authority::try_from(value.as_bytes())
            .map(Some)
            .map_err(|_| Error::Malformed("the host header is not a host with an optional port")),
    }
}

/// Turns the target into what goes on the wire of HTTP/1: absolute only if it came so.
pub(crate) fn for_http1<B>(request: &mut Request<B>) {
    if request.method() == Method::CONNECT || request.extensions().get::<AbsoluteForm>().is_some() {
        return;
    }
    let path = request.uri().path_and_query().cloned();
    let path = path.filter(|p| !p.as_str().is_empty());
    *request.uri_mut() = path.unwrap_or(uri::PathAndQuery::from_static("/")).into();
}

fn uri_of(parts: uri::Parts) -> Uri {
    // An authority with or without both other parts always forms a URI; anything else keeps serving "/".
    Uri::from_parts(parts).unwrap_or_default()
}

fn without_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, host: Option<&str>) -> Request<()> {
        let builder = Request::builder().method(method).uri(uri);
        let builder = match host {
            Some(host) => builder.header("host", host),
            None => builder,
        };
        builder.body(()).unwrap()
    }

    // proves: HTTP-3
    #[test]
    fn targets_get_an_authority() {
        let default = || Some(uri::Authority::from_static("10.0.0.1:80"));
        for (uri, host, expected) in [
            ("/a?b", Some("web:81"), "http://web:81/a?b"),
            ("/a", None, "http://10.0.0.1:80/a"),
            ("/a", Some(""), "http://10.0.0.1:80/a"),
            ("http://x/a", Some("y"), "http://x/a"),
            ("*", Some("web"), "http://web/*"),
        ] {
            let mut request = request("GET", uri, host);
            normalize(&mut request, default).unwrap();
            assert_eq!(
                request.uri().authority().map(|a| a.as_str()),
                expected.parse::<Uri>().unwrap().authority().map(|a| a.as_str()),
                "{uri}"
            );
        }
        assert!(normalize(&mut request("GET", "/", Some("a b")), default).is_err());
        assert!(normalize(&mut request("GET", "/", None), || None).is_err());
    }

    // proves: HTTP-5
    #[test]
    fn forms_are_checked_marked_and_kept() {
        let mut absolute = request("GET", "http://u@x:1/a", None);
        mark(&mut absolute).unwrap();
        assert_eq!(absolute.headers()["host"], "x:1");
        for_http1(&mut absolute);
        assert_eq!(absolute.uri(), "http://u@x:1/a");

        let mut origin = request("GET", "/a", Some("h"));
        mark(&mut origin).unwrap();
        normalize(&mut origin, || None).unwrap();
        for_http1(&mut origin);
        assert_eq!(origin.uri(), "/a");

        assert!(mark(&mut request("GET", "web:80", None)).is_err());
        assert!(mark(&mut request("CONNECT", "/a", None)).is_err());
        assert!(mark(&mut request("CONNECT", "web:80", None)).is_ok());
        let mut old = request("CONNECT", "web:80", None);
        *old.version_mut() = Version::HTTP_10;
        assert!(mark(&mut old).is_err());
    }
}
