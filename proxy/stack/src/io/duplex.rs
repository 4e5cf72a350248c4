//! # Duplex copy
//!
//! Job: join two streams into a tunnel: few large reads and writes, half-close passed on, no buffer held
//! while nothing flows.
//! May touch: two streams, buffers of this thread. Must not touch: what the bytes mean.
//! Callers: TCP forwarding, HTTP upgrades.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room for one direction while bytes flow: four TLS records, and what one large read brings.
const BUFFER: usize = 64 * 1024;
/// Buffers that a thread keeps for reuse; the others are freed.
const SPARE: usize = 4;

/// Bytes carried by a tunnel. Readable while it lives.
#[derive(Debug, Default)]
pub struct Copied {
    /// From the first stream to the second.
    pub forth: AtomicU64,
    /// From the second stream to the first.
    pub back: AtomicU64,
}

/// Joins two streams until both directions have ended.
///
/// # Errors
/// The first error of either stream; the other direction is abandoned.
pub async fn copy<A, B>(a: A, b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_counted(a, b, &Copied::default()).await
}

/// As [`copy`], counting what flows.
///
/// # Errors
/// As [`copy`].
pub async fn copy_counted<A, B>(mut a: A, mut b: B, count: &Copied) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let first = forth.poll(cx, &mut a, &mut b, &count.forth)?;
        let second = back.poll(cx, &mut b, &mut a, &count.back)?;
        match (first, second) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

#[derive(Default)]
struct Direction {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The reader has ended; what is buffered is still to be written, then the writer shut.
    Ending,
    Done,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // A tunnel that always has data must let the other tasks of its thread run.
        for _ in 0..16 {
            if self.phase == Phase::Done {
                return Poll::Ready(Ok(()));
            }
            let waits = self.phase == Phase::Open && self.fill(cx, reader)?.is_pending();
            if self.start == self.end && self.phase == Phase::Open {
                self.give_back();
                let _ = Pin::new(&mut *writer).poll_flush(cx)?;
                debug_assert!(waits, "an open reader without data has registered its waker");
                return Poll::Pending;
            }
            ready!(self.drain(cx, writer, count))?;
            if self.phase == Phase::Ending {
                self.give_back();
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                self.phase = Phase::Done;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads until the buffer is full, nothing more is there, or the stream ends.
    fn fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<()>> {
        let buffer = self.buffer.get_or_insert_with(take_buffer);
        while self.end < buffer.len() {
            let mut free = ReadBuf::new(&mut buffer[self.end..]);
            match Pin::new(&mut *reader).poll_read(cx, &mut free) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if free.filled().is_empty() => {
                    self.phase = Phase::Ending;
                    break;
                }
                Poll::Ready(Ok(())) => self.end += free.filled().len(),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while let Some(buffer) = self.buffer.as_ref().filter(|_| self.start < self.end) {
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[self.start..self.end]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
            count.fetch_add(n as u64, Ordering::Relaxed);
        }
        (self.start, self.end) = (0, 0);
        Poll::Ready(Ok(()))
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            SPARES.with_borrow_mut(|spares| {
                if spares.len() < SPARE {
                    spares.push(buffer);
                }
            });
        }
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.give_back();
    }
}

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    // proves: TCP-1
    #[tokio::test]
    async fn carries_both_ways_and_passes_half_close() {
        let (mut client, near) = tokio::io::duplex(1000);
        let (far, mut server) = tokio::io::duplex(777);
        let count = std::sync::Arc::new(Copied::default());
        let counted = count.clone();
        let tunnel = tokio::spawn(async move { copy_counted(near, far, &counted).await });
        let body = vec![7u8; 300_000];
        let sent = body.clone();
        let client = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, body);
        server.write_all(b"bye").await.unwrap();
        drop(server);
        assert_eq!(client.await.unwrap(), b"bye");
        tunnel.await.unwrap().unwrap();
        assert_eq!(count.forth.load(Ordering::Relaxed), 300_000);
        assert_eq!(count.back.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_broken_side_ends_the_tunnel() {
        let (near, client) = tokio::io::duplex(8);
        let (far, mut server) = tokio::io::duplex(8);
        drop(client);
        server.write_all(b"x").await.unwrap();
        assert!(copy(near, far).await.is_err());
    }

    #[test]
    fn an_idle_direction_holds_no_buffer() {
        let mut direction = Direction::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut near, _a) = tokio::io::duplex(8);
        let (mut far, _b) = tokio::io::duplex(8);
        let polled = direction.poll(&mut cx, &mut near, &mut far, &AtomicU64::new(0));
        assert!(polled.is_pending());
        assert!(direction.buffer.is_none());
    }
}
