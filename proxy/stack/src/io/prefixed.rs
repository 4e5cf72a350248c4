//! # Prefixed stream
//!
//! Job: give bytes that were read to look at them back to whoever reads next.
//! May touch: one stream. Must not touch: what the bytes mean. Callers: protocol and TLS detection.

use bytes::{Buf, Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream that yields `prefix` before anything else is read. Writes pass through.
#[derive(Debug)]
pub struct Prefixed<I> {
    prefix: Bytes,
    io: I,
}

/// One read of up to `limit` bytes. Empty at the end of the stream.
///
/// # Errors
/// The stream's own.
pub async fn read_some<I: AsyncRead + Unpin>(io: &mut I, limit: usize) -> io::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(limit);
    io.take(limit as u64).read_buf(&mut buffer).await?;
    Ok(buffer)
}

impl<I> Prefixed<I> {
    /// `io` with `prefix` before it.
    pub fn new(prefix: Bytes, io: I) -> Self {
        Self { prefix, io }
    }

    /// The stream behind the prefix.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    /// What has not been read of the prefix, and the stream.
    pub fn into_parts(self) -> (Bytes, I) {
        (self.prefix, self.io)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            // A consumed slice would keep its whole buffer alive for the life of the connection.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"hello").await.unwrap();
        let seen = read_some(&mut near, 3).await.unwrap();
        assert_eq!(&seen[..], b"hel");
        drop(far);
        let mut all = String::new();
        Prefixed::new(seen.freeze(), near).read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello");
    }
}
