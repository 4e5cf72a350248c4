//! # One HTTP/2 connection
//!
//! Job: carry requests on the `h2` crate directly: stream per request, upload beside the response, PINGs.
//! May touch: one byte stream. Must not touch: when to connect. Callers: the link.

use super::SendError;
use crate::{
    Body,
    body::H2Recv,
    error::{self, Error},
};
use ::h2::{
    Ping, PingPong, Reason, SendStream,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use mesh_model::endpoint::{Http2Params, KeepAlive};
use mesh_stack::io::BoxedIo;
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// Sends requests on a connection. The connection ends when all handles and streams are gone.
#[derive(Clone)]
pub(crate) struct Handle {
    send: SendRequest<Bytes>,
    poke: Arc<Notify>,
    /// One clone a stream that is open.
    active: Arc<()>,
}

/// The connection's own work: run it in a task.
pub(crate) struct Driver {
    connection: Connection<BoxedIo, Bytes>,
    keep_alive: Option<KeepAlive>,
    poke: Arc<Notify>,
    active: Arc<()>,
}

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
    let (send, connection) = builder.handshake(io).await?;
    let (poke, active) = (Arc::new(Notify::new()), Arc::new(()));
    let handle = Handle { send, poke: poke.clone(), active: active.clone() };
    Ok((handle, Driver { connection, keep_alive: params.keep_alive, poke, active }))
}

impl Handle {
    /// Asks for a PING at once; without an answer in time the connection is given up.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    pub(crate) async fn send(
        mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(SendError::unprocessed)?;
        *request.version_mut() = Version::HTTP_2;
        let (parts, body) = request.into_parts();
        let ends = body.is_end_stream();
        let head = Request::from_parts(parts, ());
        let (response, stream) =
            self.send.send_request(head, ends).map_err(SendError::unprocessed)?;
        let upload = (!ends).then(|| {
            let (cancel, cancelled) = oneshot::channel();
            tokio::spawn(upload(body, stream, cancelled));
            cancel
        });
        receive(response, upload, self.active).await
    }
}

async fn receive(
    response: ResponseFuture,
    upload: Option<oneshot::Sender<()>>,
    active: Arc<()>,
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
async fn upload(
    mut body: Body,
    mut stream: SendStream<Bytes>,
    mut cancelled: oneshot::Receiver<()>,
) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // The peer has reset the stream: it wants no more.
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            // `Err`: the response is complete or still read, the upload goes on without a watcher.
            Ok(()) = &mut cancelled => return stream.send_reset(Reason::CANCEL),
        };
        let sent = match frame {
            None => stream.send_data(Bytes::new(), true).map_err(drop),
            Some(Err(error)) => return stream.send_reset(reset_reason(&error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let ends = body.is_end_stream();
                    if send_data(&mut stream, data, ends, &mut cancelled).await.is_err() {
                        return;
                    }
                    if ends {
                        return;
                    }
                    continue;
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => stream.send_trailers(trailers).map_err(drop),
                    Err(_) => continue,
                },
            },
        };
        // Fails only if the stream is gone, which the response tells.
        let _ = sent;
        return;
    }
}

/// Sends one chunk in as many pieces as the window takes.
async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    ends: bool,
    cancelled: &mut oneshot::Receiver<()>,
) -> Result<(), ()> {
    if data.is_empty() {
        return stream.send_data(data, ends).map_err(drop);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = tokio::select! {
            room = poll_fn(|cx| stream.poll_capacity(cx)) => room,
            Ok(()) = &mut *cancelled => {
                stream.send_reset(Reason::CANCEL);
                return Err(());
            }
        };
        let Some(Ok(room)) = room else { return Err(()) };
        let piece = data.split_to(room.min(data.len()));
        if !piece.is_empty() {
            let last = ends && data.is_empty();
            stream.send_data(piece, last).map_err(drop)?;
        }
    }
    Ok(())
}

fn reset_reason(error: &Error) -> Reason {
    match error.root() {
        Error::Hyper(hyper) => {
            error::h2_source(hyper).and_then(::h2::Error::reason).unwrap_or(Reason::CANCEL)
        }
        Error::H2(h2) => h2.reason().unwrap_or(Reason::CANCEL),
        _ => Reason::CANCEL,
    }
}

impl Driver {
    /// Drives the connection to its end.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let ping = self.connection.ping_pong();
        let keep_alive = self.keep_alive;
        // Not `move` of the whole: the connection is polled beside its own PINGs.
        let Self { connection, poke, active, .. } = self;
        match ping {
            None => Ok(connection.await?),
            Some(ping) => tokio::select! {
                result = connection => Ok(result?),
                () = unanswered(ping, keep_alive, &poke, &active) => {
                    Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to a PING").into())
                }
            },
        }
    }
}

/// Completes when a PING goes unanswered.
async fn unanswered(
    mut ping: PingPong,
    keep_alive: Option<KeepAlive>,
    poke: &Notify,
    active: &Arc<()>,
) {
    /// Time to answer where no keep-alive is set and an endpoint was withdrawn.
    const PATIENCE: Duration = Duration::from_secs(3);
    /// Handle and driver hold one each besides the streams.
    const OWN: usize = 2;
    loop {
        let interval = async {
            match keep_alive {
                None => std::future::pending().await,
                Some(k) => tokio::time::sleep_until(Instant::now() + k.interval).await,
            }
        };
        tokio::select! {
            () = interval => {
                let idle = Arc::strong_count(active) <= OWN;
                if idle && !keep_alive.is_some_and(|k| k.while_idle) {
                    continue;
                }
            }
            () = poke.notified() => {}
        }
        let patience = keep_alive.map_or(PATIENCE, |k| k.timeout);
        match tokio::time::timeout(patience, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection tells its own error.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
