//! # Headers of a hop
//!
//! Job: the header names of the mesh, and the rules about headers that belong to one connection only.
//! May touch: header maps. Must not touch: bodies. Callers: servers and clients.

use http::{HeaderMap, HeaderName, Method, Request, Version, header};

/// The reason for a response made by a proxy.
pub const PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");
/// `close`: the proxy that answers asks its peer to close the client's connection.
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("l5d-proxy-connection");
/// The version of an HTTP/1 message carried in HTTP/2.
pub const ORIG_PROTO: HeaderName = HeaderName::from_static("l5d-orig-proto");
/// Identity of the client, toward the application.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");
/// Name and port of the Service as the client's profile gives them.
pub const DST_CANONICAL: HeaderName = HeaderName::from_static("l5d-dst-canonical");
/// Identity that the application demands of the server.
pub const REQUIRE_ID: HeaderName = HeaderName::from_static("l5d-require-id");
/// gRPC status code.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// gRPC status text.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Settings of an upgrade to HTTP/2, which no proxy passes on.
pub(crate) const HTTP2_SETTINGS: &str = "http2-settings";

/// Whether there may be headers of the mesh.
pub fn any_of_mesh(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("l5d-"))
}

/// Removes what belongs to one connection: every header that `connection` names, then `connection`,
/// `upgrade`, `proxy-connection`, `keep-alive` (RFC 9110, section 7.6.1).
pub fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // Mostly they name no header.
        .filter(|name| !["keep-alive", "close"].iter().any(|n| name.eq_ignore_ascii_case(n)))
        .filter_map(|name| name.parse().ok())
        // Framing is the codec's: a client cannot make a proxy drop it by naming it.
        .filter(|n| *n != header::TRANSFER_ENCODING && *n != header::CONTENT_LENGTH)
        .filter(|n| *n != header::HOST && *n != header::TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove_where(headers, is_of_connection);
}

fn is_of_connection(name: &str) -> bool {
    matches!(name, "connection" | "upgrade" | "proxy-connection" | "keep-alive")
}

/// Removes headers by name. Most messages have few headers and none of those in question: a look at each costs less than
/// a search for each name.
pub(crate) fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Whether an HTTP/1.1 request asks to leave HTTP: any `upgrade` but `h2c`, or CONNECT.
pub fn wants_upgrade<B>(request: &Request<B>) -> bool {
    if request.version() != Version::HTTP_11 {
        return false;
    }
    request.method() == Method::CONNECT
        || request.headers().get(header::UPGRADE).is_some_and(|v| {
            !v.as_bytes().split(|b| *b == b',').any(|p| p.trim_ascii().eq_ignore_ascii_case(b"h2c"))
        })
}

/// Makes a header map fit for HTTP/2 (RFC 9113, section 8.2.2).
pub fn for_http2(headers: &mut HeaderMap) {
    strip_connection(headers);
    remove_where(headers, |name| matches!(name, "transfer-encoding" | HTTP2_SETTINGS));
    if headers.get(header::TE).is_some_and(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        let trailers = headers
            .get_all(header::TE)
            .iter()
            .any(|te| te.as_bytes().to_ascii_lowercase().windows(8).any(|w| w == b"trailers"));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: HTTP-5
    #[test]
    fn headers_of_the_connection_go_and_framing_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "X-One, close"),
            ("connection", "transfer-encoding, x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("upgrade", "h2c"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, gzip"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_connection(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "transfer-encoding", "x-three"]);
        for_http2(&mut headers);
        assert_eq!(headers["te"], "trailers");
        assert!(!headers.contains_key("transfer-encoding"));
    }

    // proves: HTTP-6
    #[test]
    fn only_http11_requests_upgrade_and_never_to_h2c() {
        let of = |method: &str, version, upgrade: Option<&str>| {
            let mut request = Request::builder().method(method).version(version).uri("a:1");
            if let Some(upgrade) = upgrade {
                request = request.header("upgrade", upgrade);
            }
            wants_upgrade(&request.body(()).unwrap())
        };
        assert!(of("GET", Version::HTTP_11, Some("websocket")));
        assert!(of("CONNECT", Version::HTTP_11, None));
        assert!(!of("GET", Version::HTTP_11, Some("h2c")));
        assert!(!of("GET", Version::HTTP_10, Some("websocket")));
        assert!(!of("CONNECT", Version::HTTP_2, None));
    }
}
