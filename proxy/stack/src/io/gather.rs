//! # Gathered writes
//!
//! Job: let a codec that flushes after every frame write many frames at once: what it writes is kept until
//! the owner of the connection says that nothing more comes now.
//! May touch: one stream. Must not touch: what the bytes mean. Callers: HTTP/2.

use parking_lot::Mutex;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is kept at most: one TLS record.
const ROOM: usize = 16 * 1024;
/// A write of this size is worth a call of its own.
const LARGE: usize = ROOM / 2;

/// The stream for the codec. Its flushes do nothing; [`Flush`] is to be polled after the codec.
#[derive(Debug)]
pub struct Gather<I>(Arc<Mutex<Inner<I>>>);

/// Writes what has been gathered.
#[derive(Debug)]
pub struct Flush<I>(Arc<Mutex<Inner<I>>>);

#[derive(Debug)]
struct Inner<I> {
    io: I,
    kept: Vec<u8>,
    written: usize,
    /// Whether the stream below has bytes that it was not told to flush.
    unflushed: bool,
}

impl<I> Gather<I> {
    /// A stream and the handle that flushes it. Both belong to one task.
    pub fn new(io: I) -> (Self, Flush<I>) {
        let inner = Inner { io, kept: Vec::new(), written: 0, unflushed: false };
        let inner = Arc::new(Mutex::new(inner));
        (Self(inner.clone()), Flush(inner))
    }
}

impl<I: AsyncWrite + Unpin> Flush<I> {
    /// Writes what was kept, and flushes the stream below.
    ///
    /// # Errors
    /// The stream's own.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_flush(cx)
    }
}

impl<I: AsyncWrite + Unpin> Inner<I> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.kept[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        // Given back: an idle connection holds no buffer.
        self.kept = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes; whether they are to be kept, not written at once.
    fn poll_room(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<bool>> {
        self.unflushed = true;
        if self.kept.len() + len > ROOM {
            ready!(self.poll_drain(cx))?;
        }
        let keeps = len < LARGE || !self.kept.is_empty();
        if keeps && self.kept.capacity() == 0 {
            self.kept.reserve_exact(ROOM);
        }
        Poll::Ready(Ok(keeps))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gather<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gather<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.lock();
        if ready!(inner.poll_room(cx, buf.len()))? {
            inner.kept.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut inner.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|b| b.len()).sum();
        let inner = &mut *self.0.lock();
        if ready!(inner.poll_room(cx, len))? {
            bufs.iter().for_each(|b| inner.kept.extend_from_slice(b));
            return Poll::Ready(Ok(len));
        }
        Pin::new(&mut inner.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        ready!(inner.poll_flush(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts the writes that reach it.
    #[derive(Default)]
    struct Sink(Vec<usize>);

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_writes_become_one_and_large_ones_pass() {
        let (mut io, flush) = Gather::new(Sink::default());
        for _ in 0..3 {
            io.write_all(&[0; 100]).await.unwrap();
            io.flush().await.unwrap();
        }
        assert!(flush.0.lock().io.0.is_empty(), "nothing is written before it must");
        poll_fn(|cx| flush.poll(cx)).await.unwrap();
        io.write_all(&[0; LARGE]).await.unwrap();
        io.write_all(&[0; 10]).await.unwrap();
        io.write_all(&[0; ROOM]).await.unwrap();
        assert_eq!(flush.0.lock().io.0, [300, LARGE, 10, ROOM]);
        assert_eq!(flush.0.lock().kept.capacity(), 0, "an idle stream holds no buffer");
    }

    #[tokio::test]
    async fn what_was_kept_goes_out_before_the_end() {
        let (near, mut far) = tokio::io::duplex(16);
        let (mut io, flush) = Gather::new(near);
        let sent = vec![7; 5_000];
        let write = async {
            io.write_all(&sent).await.unwrap();
            poll_fn(|cx| flush.poll(cx)).await.unwrap();
            io.write_all(b"end").await.unwrap();
            io.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, far.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got, [&sent[..], b"end"].concat());
    }
}
