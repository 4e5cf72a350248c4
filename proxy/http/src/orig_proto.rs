//! # HTTP/1 carried over HTTP/2
//!
//! Job: between proxies, requests of HTTP/1 share one HTTP/2 connection; `l5d-orig-proto` says what they
//! were. Neither application ever sees the header.
//! May touch: version and headers. Must not touch: bodies. Callers: the endpoint client (`upgrade_*`), the
//! inbound proxy (`downgrade_request`, `mark_response`).

use crate::{headers, normalize::AbsoluteForm};
use http::{HeaderValue, Request, Response, Version};

const ABSOLUTE: &[u8] = b"; absolute-form";

/// Sender: makes an HTTP/1 request ready for HTTP/2.
pub fn upgrade_request<B>(request: &mut Request<B>) {
    let absolute = request.extensions().get::<AbsoluteForm>().is_some();
    let value = match (request.version() == Version::HTTP_10, absolute) {
        (true, false) => "HTTP/1.0",
        (true, true) => "HTTP/1.0; absolute-form",
        (false, false) => "HTTP/1.1",
        (false, true) => "HTTP/1.1; absolute-form",
    };
    headers::for_http2(request.headers_mut());
    request.headers_mut().insert(headers::ORIG_PROTO, HeaderValue::from_static(value));
    *request.version_mut() = Version::HTTP_2;
}

/// Sender: gives the response its version back, by default that of the request.
pub fn upgrade_response<B>(response: &mut Response<B>, request_version: Version) {
    let header = response.headers_mut().remove(headers::ORIG_PROTO);
    let version = header.and_then(|v| version_of(v.as_bytes()));
    *response.version_mut() = version.unwrap_or(request_version);
}

/// Receiver: restores a request that came in this way; returns whether it did.
pub fn downgrade_request<B>(request: &mut Request<B>) -> bool {
    if request.version() != Version::HTTP_2 {
        return false;
    }
    let Some(value) = request.headers_mut().remove(headers::ORIG_PROTO) else { return false };
    let value = value.as_bytes();
    *request.version_mut() = version_of(value).unwrap_or(Version::HTTP_11);
    if value.get(8..).is_some_and(|suffix| suffix == ABSOLUTE) {
        request.extensions_mut().insert(AbsoluteForm);
    }
    true
}

/// Receiver: marks the response to a request that [`downgrade_request`] restored.
pub fn mark_response<B>(response: &mut Response<B>) {
    let value = match response.version() {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    headers::for_http2(response.headers_mut());
    response.headers_mut().insert(headers::ORIG_PROTO, HeaderValue::from_static(value));
    *response.version_mut() = Version::HTTP_2;
}

fn version_of(value: &[u8]) -> Option<Version> {
    match value.get(..8)? {
        b"HTTP/1.0" => Some(Version::HTTP_10),
        b"HTTP/1.1" => Some(Version::HTTP_11),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: HTTP-7
    #[test]
    fn version_and_form_survive_the_journey() {
        for (version, absolute) in [
            (Version::HTTP_10, false),
            (Version::HTTP_11, false),
            (Version::HTTP_10, true),
            (Version::HTTP_11, true),
        ] {
            let mut request = Request::builder()
                .version(version)
                .header("transfer-encoding", "chunked")
                .body(())
                .unwrap();
            if absolute {
                request.extensions_mut().insert(AbsoluteForm);
            }
            upgrade_request(&mut request);
            assert_eq!(request.version(), Version::HTTP_2);
            assert!(!request.headers().contains_key("transfer-encoding"));
            request.extensions_mut().clear();
            assert!(downgrade_request(&mut request));
            assert_eq!(request.version(), version);
            assert_eq!(request.extensions().get::<AbsoluteForm>().is_some(), absolute);
            assert!(!request.headers().contains_key(headers::ORIG_PROTO));

            let mut response = Response::builder().version(version).body(()).unwrap();
            mark_response(&mut response);
            assert_eq!(response.version(), Version::HTTP_2);
            upgrade_response(&mut response, Version::HTTP_11);
            assert_eq!(response.version(), version);
            assert!(response.headers().is_empty());
        }
    }

    // proves: HTTP-7
    #[test]
    fn nonsense_means_http11_and_other_requests_are_left_alone() {
        let of = |version, value: &str| {
            let mut request = Request::builder()
                .version(version)
                .header("l5d-orig-proto", value)
                .body(())
                .unwrap();
            (downgrade_request(&mut request), request.version())
        };
        assert_eq!(of(Version::HTTP_2, "x"), (true, Version::HTTP_11));
        assert_eq!(of(Version::HTTP_11, "HTTP/1.0"), (false, Version::HTTP_11));
    }
}
