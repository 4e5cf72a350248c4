//! # The transport header's bytes
//!
//! Job: write and incrementally read the header that a client sends first on a connection whose ALPN
//! is `transport.l5d.io/v1`: a preface, a length of four bytes (big-endian), a protobuf message.
//! May touch: bytes. Must not touch: sockets. Callers: outbound connect, inbound direct, gateway.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mesh_model::{
    identity::{DnsName, InvalidName},
    transport::{SessionProtocol, TransportHeader},
};
use prost::Message;
use std::num::NonZeroU16;

/// Most bytes that a header may take, preface and length included.
pub const MAX_LEN: usize = 64 * 1024;

const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";
const HEAD: usize = PREFACE.len() + 4;

/// Why bytes are not a transport header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// The connection starts with something else.
    #[error("the connection does not start with a transport header")]
    Preface,
    /// The announced length is over [`MAX_LEN`].
    #[error("the transport header announces {0} bytes, at most {max} are allowed", max = MAX_LEN - HEAD)]
    TooLong(u32),
    /// The message does not decode.
    #[error("the transport header is malformed: {0}")]
    Malformed(String),
    /// The port is not from 1 to 65535.
    #[error("the transport header's port {0} is not from 1 to 65535")]
    Port(i32),
    /// The name is not a DNS name.
    #[error("the transport header's name is invalid: {0}")]
    Name(#[from] InvalidName),
    /// A session protocol that this mesh does not know.
    #[error("the transport header's session protocol is unknown")]
    SessionProtocol,
}

/// The header's bytes.
pub fn encode(header: &TransportHeader) -> Bytes {
    let message = proto::Header {
        port: header.port.get().into(),
        name: header.name.as_ref().map(|n| n.as_str().to_owned()).unwrap_or_default(),
        session_protocol: header.protocol.map(|protocol| proto::SessionProtocol {
            kind: Some(match protocol {
                SessionProtocol::Http1 => proto::Kind::Http1(proto::Empty {}),
                SessionProtocol::Http2 => proto::Kind::Http2(proto::Empty {}),
            }),
        }),
    };
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEAD + length);
    out.put_slice(PREFACE);
    // A name has at most 253 bytes, so the message is far below 4 GiB.
    out.put_u32(length as u32);
    out.put_slice(&message.encode_to_vec());
    out.freeze()
}

/// Takes a header from the front of what was read so far; `None` means that more bytes are needed, and
/// then nothing was taken. What follows the header stays in `buf`.
///
/// # Errors
/// As soon as the bytes cannot become a header any more.
pub fn decode(buf: &mut BytesMut) -> Result<Option<TransportHeader>, InvalidHeader> {
    let seen = buf.len().min(PREFACE.len());
    if buf[..seen] != PREFACE[..seen] {
        return Err(InvalidHeader::Preface);
    }
    let Some(mut length) = buf.get(PREFACE.len()..HEAD) else { return Ok(None) };
    let announced = length.get_u32();
    let length = usize::try_from(announced).unwrap_or(usize::MAX);
    if length > MAX_LEN - HEAD {
        return Err(InvalidHeader::TooLong(announced));
    }
    let Some(message) = buf.get(HEAD..HEAD + length) else { return Ok(None) };
    let header = parse(message)?;
    buf.advance(HEAD + length);
    Ok(Some(header))
}

fn parse(message: &[u8]) -> Result<TransportHeader, InvalidHeader> {
    let header =
        proto::Header::decode(message).map_err(|e| InvalidHeader::Malformed(e.to_string()))?;
    let port = u16::try_from(header.port).ok().and_then(NonZeroU16::new);
    let protocol = match header.session_protocol {
        None => None,
        Some(protocol) => match protocol.kind.ok_or(InvalidHeader::SessionProtocol)? {
            proto::Kind::Http1(_) => Some(SessionProtocol::Http1),
            proto::Kind::Http2(_) => Some(SessionProtocol::Http2),
        },
    };
    let name = match header.name.as_str() {
        "" => None,
        name => Some(name.parse::<DnsName>()?),
    };
    Ok(TransportHeader { port: port.ok_or(InvalidHeader::Port(header.port))?, name, protocol })
}

/// `transport.l5d.io.Header`, which the published API crate lacks.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Header {
        #[prost(int32, tag = "1")]
        pub(super) port: i32,
        #[prost(string, tag = "2")]
        pub(super) name: String,
        #[prost(message, optional, tag = "3")]
        pub(super) session_protocol: Option<SessionProtocol>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SessionProtocol {
        #[prost(oneof = "Kind", tags = "1, 2")]
        pub(super) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Kind {
        #[prost(message, tag = "1")]
        Http1(Empty),
        #[prost(message, tag = "2")]
        Http2(Empty),
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Empty {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> TransportHeader {
        TransportHeader {
            port: NonZeroU16::new(9898).unwrap(),
            name: Some("podinfo.test.svc.cluster.local".parse().unwrap()),
            protocol: Some(SessionProtocol::Http2),
        }
    }

    fn raw(length: u32, body: &[u8]) -> BytesMut {
        let mut buf = BytesMut::from(PREFACE);
        buf.put_u32(length);
        buf.put_slice(body);
        buf
    }

    // proves: WIRE-1
    #[test]
    fn the_known_vector() {
        let mut expected = b"transport.l5d.io/v1\r\n\r\n\0\0\0\x27\x08\xAA\x4D\x12\x1E".to_vec();
        expected.extend_from_slice(b"podinfo.test.svc.cluster.local\x1A\x02\x12\x00");
        assert_eq!(encode(&header()), expected);
    }

    // proves: WIRE-2
    #[test]
    fn it_is_read_byte_by_byte_and_leaves_the_rest() {
        let mut bytes = encode(&header()).to_vec();
        bytes.extend_from_slice(b"PRI");
        let mut buf = BytesMut::new();
        let whole = bytes.len() - 3;
        for (i, byte) in bytes.iter().enumerate().take(whole - 1) {
            buf.put_u8(*byte);
            assert_eq!(decode(&mut buf), Ok(None), "after {i}");
        }
        buf.put_slice(&bytes[whole - 1..]);
        assert_eq!(decode(&mut buf), Ok(Some(header())));
        assert_eq!(&buf[..], b"PRI");
    }

    // proves: WIRE-2
    #[test]
    fn what_cannot_become_a_header_is_refused_at_once() {
        assert_eq!(decode(&mut BytesMut::from(&b"G"[..])), Err(InvalidHeader::Preface));
        let too_long = 64 * 1024 - 26;
        assert_eq!(decode(&mut raw(too_long, b"")), Err(InvalidHeader::TooLong(too_long)));
        assert_eq!(decode(&mut raw(too_long - 1, b"")), Ok(None));
        assert_eq!(decode(&mut raw(0, b"")), Err(InvalidHeader::Port(0)));
        assert_eq!(decode(&mut raw(4, b"\x08\x80\x80\x04")), Err(InvalidHeader::Port(65536)));
        assert!(matches!(decode(&mut raw(1, b"\xFF")), Err(InvalidHeader::Malformed(_))));
        assert_eq!(decode(&mut raw(4, b"\x08\x01\x1A\x00")), Err(InvalidHeader::SessionProtocol));
        let named = decode(&mut raw(5, b"\x08\x01\x12\x01."));
        assert!(matches!(named, Err(InvalidHeader::Name(_))));
    }

    proptest! {
        #[test]
        fn round_trip(port in 1_u16.., name in proptest::option::of("[a-z]{1,8}(\\.[a-z]{1,8}){0,3}"), kind in 0..3) {
            let header = TransportHeader {
                port: NonZeroU16::new(port).unwrap(),
                name: name.map(|n| n.parse().unwrap()),
                protocol: [None, Some(SessionProtocol::Http1), Some(SessionProtocol::Http2)][kind as usize],
            };
            prop_assert_eq!(decode(&mut BytesMut::from(&encode(&header)[..])), Ok(Some(header)));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut BytesMut::from(&bytes[..]));
            let length = bytes.len() as u32;
            let _ = decode(&mut raw(length, &bytes));
        }
    }
}
