//! # A look at the ClientHello
//!
//! Job: tell from the first bytes whether a client speaks TLS, and to whom.
//! May touch: bytes; [`detect`] reads from a stream. Must not touch: keys.
//! Callers: inbound detection, control-plane ports.

use bytes::BytesMut;
use mesh_model::identity::DnsName;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// A ClientHello may have begun, but more bytes are needed.
    Incomplete,
    /// Not TLS.
    NotTls,
    /// A ClientHello for this name.
    Sni(DnsName),
    /// A ClientHello without a usable name.
    NoSni,
}

/// Most bytes that are buffered for a ClientHello.
pub const MAX_HELLO: usize = 8192;

/// Looks at the bytes received so far.
pub fn peek(bytes: &[u8]) -> Peek {
    match hello(bytes) {
        Ok(Some(name)) => Peek::Sni(name),
        Ok(None) => Peek::NoSni,
        Err(Stop::Short) => Peek::Incomplete,
        Err(Stop::Other) => Peek::NotTls,
    }
}

/// Reads into `buffer` until the answer is certain. A ClientHello larger than [`MAX_HELLO`] counts as one
/// without a name; an end of stream before the answer counts as not TLS.
///
/// # Errors
/// When reading fails. The caller sets the deadline.
pub async fn detect(io: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<Peek> {
    loop {
        match peek(buffer) {
            Peek::Incomplete if buffer.len() >= MAX_HELLO => return Ok(Peek::NoSni),
            Peek::Incomplete => {}
            certain => return Ok(certain),
        }
        buffer.reserve(READ);
        if io.read_buf(buffer).await? == 0 {
            return Ok(Peek::NotTls);
        }
    }
}

#[derive(Clone, Copy)]
enum Stop {
    Short,
    Other,
}

/// A reader over received bytes; running out means that more must come.
struct Bytes<'a> {
    rest: &'a [u8],
    /// What running out means: inside a complete vector it is malformed.
    short: Stop,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(self.short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, Stop> {
        Ok(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// A vector with a length prefix of so many bytes.
    fn vector(&mut self, prefix: usize) -> Result<&'a [u8], Stop> {
        let length = self.number(prefix)?;
        if length > MAX_HELLO { Err(Stop::Other) } else { self.take(length) }
    }
}

fn hello(bytes: &[u8]) -> Result<Option<DnsName>, Stop> {
    let (handshake, short) = records(bytes)?;
    let mut reader = Bytes { rest: &handshake, short };
    if reader.number(1)? != CLIENT_HELLO {
        return Err(Stop::Other);
    }
    let length = reader.number(3)?;
    if length >= 64 * 1024 {
        return Err(Stop::Other);
    }
    // The version stands before everything long, so nonsense is seen early.
    if reader.rest.len() >= 2 && reader.rest[..2] != LEGACY_VERSION {
        return Err(Stop::Other);
    }
    let body = reader.take(length)?;
    let mut reader = Bytes { rest: body, short: Stop::Other };
    reader.take(LEGACY_VERSION.len() + RANDOM)?;
    for prefix in [1, 2, 1] {
        // Session id, cipher suites, compression methods.
        reader.vector(prefix)?;
    }
    if reader.rest.is_empty() {
        return Ok(None);
    }
    let mut extensions = Bytes { rest: reader.vector(2)?, short: Stop::Other };
    while !extensions.rest.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        if kind == SERVER_NAME {
            return server_name(content);
        }
    }
    Ok(None)
}

fn server_name(content: &[u8]) -> Result<Option<DnsName>, Stop> {
    let mut list = Bytes { rest: content, short: Stop::Other };
    let mut names = Bytes { rest: list.vector(2)?, short: Stop::Other };
    while !names.rest.is_empty() {
        let kind = names.number(1)?;
        let name = names.vector(2)?;
        if kind == HOST_NAME {
            return Ok(std::str::from_utf8(name).ok().and_then(|n| n.parse().ok()));
        }
    }
    Ok(None)
}

/// The handshake bytes of the leading records, joined, and what it means if they do not suffice. What
/// follows a whole ClientHello changes nothing, whether it has come already or not.
fn records(bytes: &[u8]) -> Result<(Vec<u8>, Stop), Stop> {
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        match record(rest) {
            Ok((body, after)) => {
                joined.extend_from_slice(body);
                rest = after;
            }
            Err(stop) if joined.is_empty() => return Err(stop),
            Err(stop) => return Ok((joined, stop)),
        }
    }
}

/// What has come of a handshake record's content, at least a byte, and what follows it.
fn record(bytes: &[u8]) -> Result<(&[u8], &[u8]), Stop> {
    for (i, legal) in [&[HANDSHAKE][..], &[3], &[1, 3]].iter().enumerate() {
        if !legal.contains(bytes.get(i).ok_or(Stop::Short)?) {
            return Err(Stop::Other);
        }
    }
    let Some(&[high, low]) = bytes.get(3..5) else { return Err(Stop::Short) };
    match usize::from(high) << 8 | usize::from(low) {
        0 => Err(Stop::Other),
        _ if bytes.len() == 5 => Err(Stop::Short),
        length => Ok(bytes[5..].split_at(length.min(bytes.len() - 5))),
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: usize = 1;
const LEGACY_VERSION: [u8; 2] = [3, 3];
const RANDOM: usize = 32;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
const READ: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn client_hello(name: &str) -> Vec<u8> {
        let mut config = crate::profile::test_client();
        config.enable_sni = name.parse::<std::net::IpAddr>().is_err();
        let server = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), server).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    // proves: TLS-2
    #[test]
    fn every_prefix_of_a_hello_is_incomplete() {
        let hello = client_hello("web.shop.example");
        for end in 0..hello.len() {
            assert_eq!(peek(&hello[..end]), Peek::Incomplete, "{end}");
        }
        assert_eq!(peek(&hello), Peek::Sni("web.shop.example".parse().unwrap()));
        assert_eq!(peek(&client_hello("10.0.0.1")), Peek::NoSni);
    }

    #[test]
    fn a_hello_in_two_records_is_read() {
        let hello = client_hello("a.b");
        let (one, two) = hello[5..].split_at(300);
        let mut split = Vec::new();
        for part in [one, two] {
            split.extend([22, 3, 1, (part.len() >> 8) as u8, part.len() as u8]);
            split.extend(part);
        }
        assert_eq!(peek(&split), Peek::Sni("a.b".parse().unwrap()));
    }

    // proves: TLS-2
    #[test]
    fn what_follows_a_hello_changes_nothing() {
        let whole = [client_hello("a.b"), client_hello("10.0.0.1")];
        for after in [&[22, 3, 1, 0, 0][..], &[22, 3, 2], &[20, 3, 3, 0, 1, 1], b"GET /", &[22]] {
            for hello in &whole {
                assert_eq!(peek(&[hello, after].concat()), peek(hello), "{after:?}");
            }
        }
        // Half a hello, whose other half cannot come any more.
        let mut half = whole[0][..105].to_vec();
        half[3..5].copy_from_slice(&[0, 100]);
        assert_eq!(peek(&half), Peek::Incomplete);
        half.extend([22, 3, 1, 0, 0]);
        assert_eq!(peek(&half), Peek::NotTls);
    }

    // proves: TLS-2
    #[test]
    fn other_protocols_are_told_apart_early() {
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0", b"\x16\x02", b"\x16\x03\x02"] {
            assert_eq!(peek(other), Peek::NotTls, "{other:?}");
        }
        assert_eq!(peek(&[22, 3, 1, 0, 9, 2, 0, 0, 5, 0, 0, 0, 0, 0]), Peek::NotTls);
        assert_eq!(peek(&[22, 3, 1, 0, 0]), Peek::NotTls);
        assert_eq!(peek(b""), Peek::Incomplete);
    }

    #[tokio::test]
    async fn detection_is_bounded() {
        // A hello that promises 60 KiB and never ends.
        let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xf0, 0, 3, 3];
        endless.resize(20_000, 0);
        let mut buffer = BytesMut::new();
        assert_eq!(detect(&mut &endless[..], &mut buffer).await.unwrap(), Peek::NoSni);
        let mut buffer = BytesMut::new();
        assert_eq!(detect(&mut &endless[..9], &mut buffer).await.unwrap(), Peek::NotTls);
    }
}
