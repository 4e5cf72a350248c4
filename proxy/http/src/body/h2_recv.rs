//! # Received HTTP/2 bodies
//!
//! Job: the receiving half of a stream as a body; gives window back as data is taken.
//! May touch: one stream. Must not touch: the connection. Callers: the HTTP/2 client and server.

use crate::error::Error;
use bytes::Bytes;
use http_body::Frame;
use std::{
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;

/// A stream being received. Dropping it before its end cancels the stream, the upload included.
pub(crate) struct H2Recv {
    recv: h2::RecvStream,
    data_done: bool,
    upload: Option<oneshot::Sender<()>>,
    _active: Option<Arc<AtomicBool>>,
}

impl H2Recv {
    /// `upload` is told when the reader leaves early; `active` marks the stream as open meanwhile.
    pub(crate) fn new(
        recv: h2::RecvStream,
        upload: Option<oneshot::Sender<()>>,
        active: Arc<AtomicBool>,
    ) -> Self {
        Self { recv, data_done: false, upload, _active: Some(active) }
    }

    /// The body of a request that a server has received.
    pub(crate) fn of_request(recv: h2::RecvStream) -> Self {
        Self { recv, data_done: false, upload: None, _active: None }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_done {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only if the stream is gone, which the next poll tells.
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => {
                    // A server that has answered in full may stop reading the request this way
                    // (RFC 9113, section 8.1).
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_done = true,
            }
        }
        match ready!(self.recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }
}

impl Drop for H2Recv {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take().filter(|_| !self.recv.is_end_stream()) {
            let _ = upload.send(());
        }
    }
}
