//! # Driven connections
//!
//! Job: an HTTP/2 connection that a task of its own drives, and that those who hand it frames push on themselves once
//! some wait: the peer then works on the first of a burst while the rest of it is still being made.
//! May touch: one connection. Must not touch: what frames mean. Callers: HTTP/2 client and server.

use crate::error::Error;
use mesh_stack::io::{BoxedIo, Flush};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// So many requests or responses wait at most until one of them pushes the connection, at first: a short burst is
/// spread over both ends of it.
const FEW: usize = 4;
/// The same when a burst goes on, each push doubling it: writes are what HTTP/1 costs most.
const MANY: usize = 32;

/// What drives a connection: reads, writes, and at last flushes.
pub(crate) trait Codec: Sized {
    /// Does all that can be done now; ready when the connection has ended. Not polled again then.
    fn poll(&mut self, me: &Pusher<Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>>;
}

/// The one owner: its task polls. With it the connection goes.
pub(crate) struct Driver<C>(Pusher<C>);

/// Pushes the connection on. Without an owner it does nothing.
pub(crate) struct Pusher<C>(Arc<Driven<C>>);

struct Driven<C> {
    state: Mutex<State<C>>,
    /// Requests or responses handed over since the connection was polled last.
    waiting: AtomicUsize,
    /// So many of them wait at most until one of them pushes.
    most: AtomicUsize,
}

enum State<C> {
    /// With the owner's waker, once it has polled: whoever polls, it is the owner who is woken.
    Open(C, Option<Waker>),
    /// A push found the end; the owner takes it.
    Ended(Result<(), Error>),
    Gone,
}

impl<C> Clone for Pusher<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Codec> Driver<C> {
    pub(crate) fn new(codec: C) -> Self {
        let state = Mutex::new(State::Open(codec, None));
        Self(Pusher(Arc::new(Driven {
            state,
            waiting: AtomicUsize::new(0),
            most: AtomicUsize::new(FEW),
        })))
    }

    pub(crate) fn pusher(&self) -> Pusher<C> {
        self.0.clone()
    }

    /// Polls the connection; ready at its end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.0.0.state.lock();
        self.0.0.waiting.store(0, Ordering::Relaxed);
        self.0.0.most.store(FEW, Ordering::Relaxed);
        if let State::Open(codec, waker) = &mut *state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            let ended = std::task::ready!(codec.poll(&self.0, cx));
            *state = State::Ended(ended);
        }
        match std::mem::replace(&mut *state, State::Gone) {
            State::Ended(ended) => Poll::Ready(ended),
            State::Open(..) | State::Gone => Poll::Ready(Ok(())),
        }
    }

    /// Changes the connection, unless it has ended; the next poll acts on it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut C)) {
        if let State::Open(codec, _) = &mut *self.0.0.state.lock() {
            change(codec);
        }
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        let last = std::mem::replace(&mut *self.0.0.state.lock(), State::Gone);
        drop(last);
    }
}

impl<C: Codec> Pusher<C> {
    /// A request or a response has been handed over.
    pub(crate) fn push(&self) {
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) + 1 < self.0.most.load(Ordering::Relaxed)
        {
            return;
        }
        // Somebody who polls just now will see it, or is woken for it.
        let Some(mut state) = self.0.state.try_lock() else { return };
        self.0.waiting.store(0, Ordering::Relaxed);
        let most = self.0.most.load(Ordering::Relaxed);
        self.0.most.store((most * 2).min(MANY), Ordering::Relaxed);
        let State::Open(codec, Some(waker)) = &mut *state else { return };
        let waker = waker.clone();
        if let Poll::Ready(ended) = codec.poll(self, &mut Context::from_waker(&waker)) {
            *state = State::Ended(ended);
            waker.wake();
        }
    }
}

/// What the codec has answered. When it waits, what it has written goes out.
pub(crate) fn flushed<T>(
    answer: Poll<Result<T, h2::Error>>,
    flush: &Flush<BoxedIo>,
    cx: &mut Context<'_>,
) -> Poll<Result<T, Error>> {
    if answer.is_pending()
        && let Poll::Ready(Err(error)) = flush.poll(cx)
    {
        return Poll::Ready(Err(error.into()));
    }
    answer.map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    /// Counts how often it is polled; ends at the poll of this number.
    struct Counted {
        polls: usize,
        ends: usize,
    }

    impl Codec for Counted {
        fn poll(&mut self, _: &Pusher<Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            self.polls += 1;
            if self.polls == self.ends { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    fn polls(driver: &Driver<Counted>) -> usize {
        let mut polls = 0;
        driver.change(|codec| polls = codec.polls);
        polls
    }

    #[test]
    fn bursts_are_pushed_on_less_and_less_often_until_the_owner_polls() {
        let driver = Driver::new(Counted { polls: 0, ends: usize::MAX });
        let (pusher, waker) = (driver.pusher(), noop_waker());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..FEW {
            pusher.push();
        }
        assert_eq!(polls(&driver), 0, "nobody to be woken yet");
        assert!(driver.poll(&mut cx).is_pending());
        let seen: Vec<usize> = (0..FEW + 2 * FEW + 4 * FEW)
            .filter_map(|pushed| {
                let before = polls(&driver);
                pusher.push();
                (polls(&driver) > before).then_some(pushed + 1)
            })
            .collect();
        assert_eq!(seen, [FEW, 3 * FEW, 7 * FEW]);
        assert!(driver.poll(&mut cx).is_pending());
        let before = polls(&driver);
        (0..FEW).for_each(|_| pusher.push());
        assert_eq!(polls(&driver), before + 1, "a new burst");
    }

    #[test]
    fn an_end_that_a_push_found_is_the_owners() {
        let driver = Driver::new(Counted { polls: 0, ends: 2 });
        let (pusher, waker) = (driver.pusher(), noop_waker());
        let mut cx = Context::from_waker(&waker);
        assert!(driver.poll(&mut cx).is_pending());
        (0..2 * FEW).for_each(|_| pusher.push());
        assert!(driver.poll(&mut cx).is_ready());
    }

    #[test]
    fn without_its_owner_nothing_is_pushed() {
        let driver = Driver::new(Counted { polls: 0, ends: 1 });
        let pusher = driver.pusher();
        drop(driver);
        (0..2 * FEW).for_each(|_| pusher.push());
        assert!(matches!(*pusher.0.state.lock(), State::Gone));
    }
}
