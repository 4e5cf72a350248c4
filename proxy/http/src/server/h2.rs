//! # HTTP/2 server
//!
//! Job: one connection on the `h2` crate directly: a task a stream, the response sent as the window
//! allows, resets passed on, drain, PINGs.
//! May touch: one byte stream. Must not touch: what requests mean. Callers: `serve`.

use super::{Drain, Front, Http2ServerParams};
use crate::{
    Body,
    body::{H2Recv, H2Send},
    driven::{Codec, Driver, Pusher, flushed},
    error::Error,
    headers, ping,
};
use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Request, Response, Version};
use http_body::Body as _;
use mesh_model::endpoint::KeepAlive;
use mesh_stack::io::{BoxedIo, Flush, Gather};
use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Notify;

/// As much as adaptation to a path's bandwidth would ever reach.
const ADAPTED_WINDOW: u32 = 16 << 20;
/// Most bytes of a stream that wait to be written.
const SEND_BUFFER: usize = 400 * 1024;
/// Largest header list where nothing is set.
const HEADER_LIST: u32 = 16 * 1024;
/// Longest wait for the preface, which a client sends at once.
const PREFACE: Duration = Duration::from_secs(10);
/// Resets sent for the peer's own errors before it counts as hostile.
const ERROR_RESETS: usize = 1024;

pub(super) async fn serve(
    io: BoxedIo,
    params: &Http2ServerParams,
    front: Arc<Front>,
    mut drain: Drain<'_>,
) -> Result<(), Error> {
    let (io, flush) = Gather::new(io);
    let mut connection: Connection<_, Bytes> = {
        let mut handshake = pin!(builder(params).handshake(io));
        tokio::select! {
            biased;
            made = poll_fn(|cx| flushed(handshake.as_mut().poll(cx), &flush, cx)) => made?,
            // A client that has not said a word yet has nothing to lose.
            () = &mut drain => return Ok(()),
            () = tokio::time::sleep(PREFACE) => {
                let late = io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface in time");
                return Err(late.into());
            }
        }
    };
    let ping = connection.ping_pong().filter(|_| params.keep_alive.is_some());
    let keep_alive = params.keep_alive.map(|(interval, timeout)| KeepAlive {
        interval,
        timeout,
        while_idle: true,
    });
    let never = Notify::new();
    let mut lost = pin!(async {
        match ping {
            Some(ping) => ping::unanswered(ping, keep_alive, &never, || false).await,
            None => std::future::pending().await,
        }
    });
    let driver = Driver::new(Wire { connection, flush, front: front.clone() });
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| driver.poll(cx)) => return ended,
            () = &mut drain, if !draining => {
                draining = true;
                driver.change(|wire| wire.connection.graceful_shutdown());
            }
            () = front.close.notified(), if !draining => {
                draining = true;
                driver.change(|wire| wire.connection.graceful_shutdown());
            }
            () = &mut lost => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to a PING").into());
            }
        }
    }
}

/// The connection, what flushes it, and who answers its requests.
struct Wire {
    connection: Connection<Gather<BoxedIo>, Bytes>,
    flush: Flush<BoxedIo>,
    front: Arc<Front>,
}

impl Codec for Wire {
    fn poll(&mut self, me: &Pusher<Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let end = match self.connection.poll_accept(cx) {
                // Matched at once: it is large, and would be moved at each step.
                Poll::Ready(Some(Ok((request, respond)))) => {
                    tokio::spawn(stream(self.front.clone(), request, respond, me.clone()));
                    continue;
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
                Poll::Ready(None) => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            };
            return flushed(end, &self.flush, cx);
        }
    }
}

fn builder(params: &Http2ServerParams) -> Builder {
    let mut builder = Builder::new();
    let window = |set: u32| if params.adaptive_flow_control { ADAPTED_WINDOW } else { set };
    builder
        .initial_window_size(window(params.initial_stream_window))
        .initial_connection_window_size(window(params.initial_connection_window))
        .max_header_list_size(params.max_header_list_size.unwrap_or(HEADER_LIST))
        .max_send_buffer_size(params.max_send_buf_size.unwrap_or(SEND_BUFFER))
        .max_local_error_reset_streams(Some(ERROR_RESETS));
    if let Some(max) = params.max_concurrent_streams {
        builder.max_concurrent_streams(max);
    }
    if let Some(max) = params.max_frame_size {
        builder.max_frame_size(max);
    }
    if let Some(max) = params.max_pending_accept_reset_streams {
        builder.max_pending_accept_reset_streams(max);
    }
    builder
}

/// One request and its response.
async fn stream(
    front: Arc<Front>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: Pusher<Wire>,
) {
    let request = request.map(|recv| Body::h2(H2Recv::of_request(recv)));
    let answer = {
        let mut call = pin!(front.handle(request));
        poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // A client that resets the stream waits for nothing any more.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let response = match answer {
        None => return,
        Some(Err(error)) => {
            return respond.send_reset(error.h2_reason().unwrap_or(Reason::INTERNAL_ERROR));
        }
        Some(Ok(response)) => response,
    };
    let (mut parts, body) = response.into_parts();
    if parts.version != Version::HTTP_2 {
        headers::for_http2(&mut parts.headers);
    }
    let ends = body.is_end_stream();
    // Fails only if the stream is gone.
    let Ok(stream) = respond.send_response(Response::from_parts(parts, ()), ends) else { return };
    if ends {
        // Whoever watches the body hears of its end now.
        drop(body);
        return connection.push();
    }
    let mut send = H2Send::new(body, stream);
    poll_fn(|cx| send.poll(cx)).await;
    connection.push();
}
