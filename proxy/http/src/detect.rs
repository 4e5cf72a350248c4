//! # HTTP detection
//!
//! Job: tell HTTP/1, HTTP/2 and anything else apart by the first bytes of a connection.
//! May touch: the first read. Must not touch: what follows; the bytes are given back.
//! Callers: inbound and outbound protocol decisions.

use mesh_stack::io::{Prefixed, read_some};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

/// Most bytes looked at.
const LIMIT: usize = 1024;
/// How much of the HTTP/2 preface (RFC 9113, section 3.4) decides.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// HTTP.
    Http(HttpVersion),
    /// Something else.
    NotHttp,
    /// Nothing came in time.
    Timeout,
}

impl HttpVersion {
    /// As metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
        }
    }
}

impl Detected {
    /// The `result` label in metrics of detection.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http(version) => version.as_str(),
            Self::NotHttp => "not_http",
            Self::Timeout => "read_timeout",
        }
    }
}

/// Reads the first bytes of `io` for at most `timeout`, and gives them back in front of it.
///
/// # Errors
/// When the stream fails, or ends before any byte.
pub async fn detect<I: AsyncRead + Unpin>(
    mut io: I,
    timeout: Duration,
) -> io::Result<(Detected, Prefixed<I>)> {
    // A timeout may be set to a year, which must not overflow the clock.
    let deadline = Instant::now() + timeout.min(Duration::from_secs(10 * 365 * 24 * 3600));
    let read = tokio::time::timeout_at(deadline, read_some(&mut io, LIMIT)).await;
    let mut seen = match read {
        Err(_) => return Ok((Detected::Timeout, Prefixed::new(bytes::Bytes::new(), io))),
        Ok(seen) => seen?,
    };
    if seen.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // A sender may cut its first segment in the middle of a request line.
    while seen.len() < PREFACE.len() && may_become_http(&seen) {
        let mut rest = (&mut io).take((LIMIT - seen.len()) as u64);
        match tokio::time::timeout_at(deadline, rest.read_buf(&mut seen)).await {
            Ok(Ok(more)) if more > 0 => {}
            Ok(Err(error)) => return Err(error),
            _ => break,
        }
    }
    Ok((decide(&seen), Prefixed::new(seen.freeze(), io)))
}

/// What the bytes say.
pub fn decide(seen: &[u8]) -> Detected {
    if seen.len() < PREFACE.len() {
        return Detected::NotHttp;
    }
    if seen.starts_with(PREFACE) {
        return Detected::Http(HttpVersion::Http2);
    }
    match httparse::Request::new(&mut []).parse(seen) {
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Detected::Http(HttpVersion::Http1),
        Err(_) => Detected::NotHttp,
    }
}

const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
];

fn may_become_http(seen: &[u8]) -> bool {
    let begins = |whole: &[u8]| whole.starts_with(seen) || seen.starts_with(whole);
    (begins(PREFACE) || METHODS.iter().any(|m| begins(m)))
        && httparse::Request::new(&mut []).parse(seen).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use noise::bytes;

    mod noise {
        /// Byte strings that differ in length and content, without a dependency.
        pub(super) fn bytes() -> impl Iterator<Item = Vec<u8>> {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            (0..5000).map(move |i| {
                (0..i % 64)
                    .map(|_| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        (state >> 32) as u8
                    })
                    .collect()
            })
        }
    }

    const ANY: Duration = Duration::from_secs(10);

    // proves: HTTP-1
    #[test]
    fn first_bytes_decide() {
        let h1 = Detected::Http(HttpVersion::Http1);
        for (seen, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Detected::Http(HttpVersion::Http2)),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", h1),
            (b"GET /long/path/without/end", h1),
            (b"OPTIONS * HTTP/1.0\r\n\r\n", h1),
            (b"CONNECT a:1 HTTP/1.1\r\n", h1),
            (b"SSH-2.0-OpenSSH_9\r\n", Detected::NotHttp),
            (b"GET / HTTP/9.9\r\nhost: a\r\n", Detected::NotHttp),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abc", Detected::NotHttp),
            (b"*1\r\n$4\r\nPING\r\n", Detected::NotHttp),
            (b"GET / HTTP", Detected::NotHttp),
        ] {
            assert_eq!(decide(seen), expected, "{}", String::from_utf8_lossy(seen));
        }
        for seen in bytes() {
            let _ = decide(&seen);
        }
    }

    // proves: HTTP-1
    #[tokio::test(start_paused = true)]
    async fn a_request_line_in_pieces_is_still_http_and_bytes_are_given_back() {
        use tokio::io::AsyncWriteExt;
        let (near, mut far) = tokio::io::duplex(64);
        let detected = tokio::spawn(detect(near, ANY));
        far.write_all(b"GE").await.unwrap();
        tokio::task::yield_now().await;
        far.write_all(b"T /abc HTTP/1.1\r\n").await.unwrap();
        drop(far);
        let (found, mut io) = detected.await.unwrap().unwrap();
        assert_eq!(found, Detected::Http(HttpVersion::Http1));
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET /abc HTTP/1.1\r\n");
    }

    // proves: HTTP-1
    #[tokio::test(start_paused = true)]
    async fn silence_times_out_and_an_empty_stream_is_an_error() {
        let (near, far) = tokio::io::duplex(64);
        let (found, io) = detect(near, ANY).await.unwrap();
        assert_eq!(found, Detected::Timeout);
        drop(far);
        assert!(detect(io, ANY).await.is_err());
    }
}
