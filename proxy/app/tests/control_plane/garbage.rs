//! # Answers that no control plane gives
//!
//! Job: HTTP/2 by hand, as wrong as can be. Must not touch: anything but the connection.
//! Callers: the relay.

use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Garbage {
    /// Accepts and says nothing.
    Silence,
    /// Closes what it accepts.
    Closes,
    /// Another protocol.
    Http1,
    /// Bytes without sense, for ever.
    Noise,
    /// A GOAWAY on each connection.
    GoAway,
    /// The headers of the answer never end.
    EndlessHeaders,
    /// Messages that do not parse.
    BadProtobuf,
    /// A message of 4 GiB begins.
    HugeMessage,
    /// A web page.
    WrongContent,
    /// A status that is no number.
    BadStatus,
    /// Every stream is reset.
    Resets,
}

pub(crate) const ALL: [Garbage; 11] = [
    Garbage::Silence,
    Garbage::Closes,
    Garbage::Http1,
    Garbage::Noise,
    Garbage::GoAway,
    Garbage::EndlessHeaders,
    Garbage::BadProtobuf,
    Garbage::HugeMessage,
    Garbage::WrongContent,
    Garbage::BadStatus,
    Garbage::Resets,
];

// Types and flags of frames, RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, indexed.
const OK: u8 = 0x88;
/// A flood makes a pause now and then, so that others get to work as well.
const PAUSE: Duration = Duration::from_millis(1);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal header that is not indexed, by name.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend(name.as_bytes());
    field.push(value.len() as u8);
    field.extend(value.as_bytes());
    field
}

fn head(content_type: &str) -> Vec<u8> {
    [vec![OK], header("content-type", content_type)].concat()
}

impl Garbage {
    pub(crate) async fn play(self, io: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Silence => std::future::pending().await,
            Self::Closes => Ok(()),
            Self::Http1 => {
                io.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
                io.read_to_end(&mut Vec::new()).await.map(drop)
            }
            Self::Noise => {
                let noise: Vec<u8> =
                    (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
                flood(io, &noise).await
            }
            Self::GoAway => {
                io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
                io.write_all(&frame(GOAWAY, 0, 0, &[0; 8])).await?;
                io.read_to_end(&mut Vec::new()).await.map(drop)
            }
            _ => self.answer(io).await,
        }
    }

    /// Reads frames, and answers each request wrongly.
    async fn answer(self, io: &mut TcpStream) -> io::Result<()> {
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await?;
        loop {
            let mut start = [0; 9];
            io.read_exact(&mut start).await?;
            let length = u32::from_be_bytes([0, start[0], start[1], start[2]]) as usize;
            io.read_exact(&mut vec![0; length]).await?;
            let stream = u32::from_be_bytes([start[5], start[6], start[7], start[8]]);
            match start[3] {
                HEADERS => self.respond(io, stream).await?,
                SETTINGS if start[4] == 0 => io.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
                _ => {}
            }
        }
    }

    async fn respond(self, io: &mut TcpStream, stream: u32) -> io::Result<()> {
        let grpc = frame(HEADERS, END_HEADERS, stream, &head("application/grpc"));
        match self {
            Self::EndlessHeaders => {
                io.write_all(&frame(HEADERS, 0, stream, &head("application/grpc"))).await?;
                let more = header("x-more", &"m".repeat(100)).repeat(100);
                flood(io, &frame(CONTINUATION, 0, stream, &more)).await
            }
            Self::BadProtobuf => {
                io.write_all(&grpc).await?;
                let message = [0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff];
                io.write_all(&frame(DATA, 0, stream, &message)).await
            }
            Self::HugeMessage => {
                io.write_all(&grpc).await?;
                io.write_all(&frame(DATA, 0, stream, &[0, 0xff, 0xff, 0xff, 0xff])).await?;
                flood(io, &frame(DATA, 0, stream, &[0; 8192])).await
            }
            Self::WrongContent => {
                let page = frame(HEADERS, END_HEADERS, stream, &head("text/html"));
                io.write_all(&page).await?;
                io.write_all(&frame(DATA, END_STREAM, stream, b"<html></html>")).await
            }
            Self::BadStatus => {
                io.write_all(&grpc).await?;
                let trailers = header("grpc-status", "banana");
                let flags = END_HEADERS | END_STREAM;
                io.write_all(&frame(HEADERS, flags, stream, &trailers)).await
            }
            _ => io.write_all(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 2])).await,
        }
    }
}

/// The same again until the other side has had enough.
async fn flood(io: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    loop {
        for _ in 0..16 {
            io.write_all(bytes).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
