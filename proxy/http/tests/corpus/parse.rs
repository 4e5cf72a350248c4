//! # What the fuzzer of this crate does with its bytes

use mesh_http::detect::{Detected, HttpVersion, decide};

/// The first bytes of a connection. HTTP/2 is its preface and nothing else.
pub(crate) fn sniff(bytes: &[u8]) {
    let http2 = decide(bytes) == Detected::Http(HttpVersion::Http2);
    assert_eq!(http2, bytes.starts_with(b"PRI * HTTP/2.0"));
}
