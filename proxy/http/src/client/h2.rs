//! # One HTTP/2 connection
//!
//! Job: carry requests on the `h2` crate directly: stream per request, upload beside the response, PINGs.
//! May touch: one byte stream. Must not touch: when to connect. Callers: the link.

use super::SendError;
use crate::{
    Body,
    body::{H2Recv, H2Send},
    driven::{self, Codec, Pusher, flushed},
    error::Error,
    ping,
};
use ::h2::{
    PingPong, Reason,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body as _;
use mesh_model::endpoint::{Http2Params, KeepAlive};
use mesh_stack::io::{BoxedIo, Flush, Gather};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::{Notify, oneshot};

/// Sends requests on a connection. The connection ends when all handles and streams are gone.
#[derive(Clone)]
pub(crate) struct Handle {
    send: SendRequest<Bytes>,
    pusher: Pusher<Wire>,
    poke: Arc<Notify>,
    /// One clone a stream that is open; set when one is opened.
    active: Arc<AtomicBool>,
}

/// The connection's own work: run it in a task.
pub(crate) struct Driver {
    driven: driven::Driver<Wire>,
    ping: Option<PingPong>,
    keep_alive: Option<KeepAlive>,
    poke: Arc<Notify>,
    active: Arc<AtomicBool>,
}

/// The connection, and what flushes it.
struct Wire(Connection<Gather<BoxedIo>, Bytes>, Flush<BoxedIo>);

impl Codec for Wire {
    fn poll(&mut self, _: &Pusher<Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        flushed(Pin::new(&mut self.0).poll(cx), &self.1, cx)
    }
}

/// Handle and driver hold the mark of use besides the streams.
const OWN: usize = 2;
/// Most bytes that a stream may have waiting to be written.
const SEND_BUFFER: usize = 1 << 20;

pub(crate) async fn handshake(
    io: BoxedIo,
    params: Http2Params,
) -> Result<(Handle, Driver), ::h2::Error> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_send_buffer_size(SEND_BUFFER);
    if let Some(window) = params.initial_stream_window {
        builder.initial_window_size(window);
    }
    if let Some(window) = params.initial_connection_window {
        builder.initial_connection_window_size(window);
    }
    // A stream that was just reset may still receive: keep more of them than the codec would.
    builder.max_concurrent_reset_streams(100);
    // Nothing is flushed here: the driver does, as soon as it runs.
    let (io, flush) = Gather::new(io);
    let (send, mut connection) = builder.handshake(io).await?;
    let ping = connection.ping_pong();
    let driven = driven::Driver::new(Wire(connection, flush));
    let (poke, active) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
    let pusher = driven.pusher();
    let handle = Handle { send, pusher, poke: poke.clone(), active: active.clone() };
    let keep_alive = params.keep_alive;
    Ok((handle, Driver { driven, ping, keep_alive, poke, active }))
}

impl Handle {
    /// Asks for a PING at once; without an answer in time the connection is given up.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// Whether no stream is open, and none was since this was asked last.
    pub(crate) fn take_idle(&self) -> bool {
        let used = self.active.swap(false, Ordering::Relaxed);
        !used && Arc::strong_count(&self.active) <= OWN
    }

    pub(crate) async fn send(
        mut self,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        self.active.store(true, Ordering::Relaxed);
        poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(SendError::unprocessed)?;
        let (response, upload) = self.open(request)?;
        self.pusher.push();
        receive(response, upload, self.active).await
    }

    /// Opens a stream. What takes the rest of the request's body to it can be cancelled.
    fn open(
        &mut self,
        request: &mut Request<Body>,
    ) -> Result<(ResponseFuture, Option<oneshot::Sender<()>>), SendError> {
        *request.version_mut() = Version::HTTP_2;
        let (parts, body) = std::mem::take(request).into_parts();
        let ends = body.is_end_stream();
        let head = Request::from_parts(parts, ());
        let (response, stream) =
            self.send.send_request(head, ends).map_err(SendError::unprocessed)?;
        let mut upload = (!ends).then(|| H2Send::new(body, stream));
        // A short body that is there already needs no task.
        let unsent = upload.take_if(|upload| !upload.is_sent_now());
        let upload = unsent.map(|unsent| {
            let (cancel, cancelled) = oneshot::channel();
            tokio::spawn(upload_rest(unsent, cancelled));
            cancel
        });
        Ok((response, upload))
    }
}

async fn receive(
    response: ResponseFuture,
    upload: Option<oneshot::Sender<()>>,
    active: Arc<AtomicBool>,
) -> Result<Response<Body>, SendError> {
    // If the caller goes away here, the upload must end too.
    let mut guard = CancelOnDrop(upload);
    let response = response.await.map_err(|error| {
        let unprocessed = is_unprocessed(&error);
        SendError { error: error.into(), unprocessed }
    })?;
    let upload = guard.0.take();
    Ok(response.map(|recv| Body::h2(H2Recv::new(recv, upload, active))))
}

struct CancelOnDrop(Option<oneshot::Sender<()>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            let _ = cancel.send(());
        }
    }
}

/// Whether the peer says that it has not looked at the request: REFUSED_STREAM, or a GOAWAY whose last
/// stream is an earlier one (RFC 9113, sections 8.7 and 6.8).
fn is_unprocessed(error: &::h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away()
            || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)))
}

/// Sends a request body as the peer's window allows.
async fn upload_rest(mut upload: H2Send, mut cancelled: oneshot::Receiver<()>) {
    tokio::select! {
        biased;
        () = poll_fn(|cx| upload.poll(cx)) => return,
        // `Err`: the response is complete or still read, the upload goes on without a watcher.
        Ok(()) = &mut cancelled => {}
    }
    upload.cancel();
}

impl Driver {
    /// Drives the connection to its end.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let Self { driven, ping, keep_alive, poke, active } = self;
        // Handle and driver hold one each besides the streams.
        let is_idle = || Arc::strong_count(&active) <= OWN;
        let driven = poll_fn(|cx| driven.poll(cx));
        match ping {
            None => driven.await,
            Some(ping) => tokio::select! {
                biased;
                ended = driven => ended,
                () = ping::unanswered(ping, keep_alive, &poke, is_idle) => {
                    Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to a PING").into())
                }
            },
        }
    }
}
