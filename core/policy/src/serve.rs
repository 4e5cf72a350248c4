//! # The gRPC edge
//!
//! Job: what both services share: the handles, the wait for the first lists, and the stream of a view.
//! May touch: generated types, the indexes through their locks. Must not touch: how views are built.
//! Callers: `controller`.

mod inbound;
mod outbound;

use crate::{
    Config,
    error::Refusal,
    index::{inbound::InboundIndex, outbound::OutboundIndex},
};
use futures::{FutureExt, Stream, stream};
use linkerd2_proxy_api::{
    inbound::inbound_server_policies_server::InboundServerPoliciesServer,
    outbound::outbound_policies_server::OutboundPoliciesServer,
};
use mesh_process::{
    drain,
    ready::{Readiness, State},
};
use parking_lot::Mutex;
use std::{io, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tonic::{Code, Status, transport::server::Connected};

/// Both policy services over their indexes. Clones share all.
#[derive(Clone)]
pub struct Policies {
    config: Arc<Config>,
    inbound: Arc<Mutex<InboundIndex>>,
    outbound: Arc<Mutex<OutboundIndex>>,
    readiness: Readiness,
    drain: drain::Watch,
}

/// What a handler streams.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Streams of one connection.
const MAX_STREAMS: u32 = 100_000;
/// A client that is gone without a word is noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

impl Policies {
    /// Services that answer once `readiness` no longer waits, and end their streams on drain.
    pub fn new(
        config: Arc<Config>,
        inbound: Arc<Mutex<InboundIndex>>,
        outbound: Arc<Mutex<OutboundIndex>>,
        readiness: Readiness,
        drain: drain::Watch,
    ) -> Self {
        Self { config, inbound, outbound, readiness, drain }
    }

    /// Serves connections until the drain has ended every stream.
    ///
    /// # Errors
    /// When the HTTP/2 server cannot start.
    pub async fn run<I>(
        self,
        incoming: impl Stream<Item = io::Result<I>> + Send,
    ) -> Result<(), tonic::transport::Error>
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let stop = self.drain.clone().signaled();
        tonic::transport::Server::builder()
            // A proxy holds a stream for each port and each destination that it uses.
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(self.inbound_server())
            .add_service(self.outbound_server())
            .serve_with_incoming_shutdown(incoming, stop.map(drop))
            .await
    }

    /// Inbound policies, as a gRPC server takes them.
    pub fn inbound_server(&self) -> InboundServerPoliciesServer<Self> {
        InboundServerPoliciesServer::new(self.clone())
    }

    /// Outbound policies, as a gRPC server takes them.
    pub fn outbound_server(&self) -> OutboundPoliciesServer<Self> {
        OutboundPoliciesServer::new(self.clone())
    }

    /// An index that is still being filled would deny what exists, and gateways take such an answer for
    /// good.
    fn check_ready(&self) -> Result<(), Status> {
        match self.readiness.state() {
            State::Waiting => {
                Err(Status::unavailable("the policy controller is still reading the cluster"))
            }
            State::Ready | State::Draining => Ok(()),
        }
    }
}

/// The values of a view, as messages: the one now, then each that differs. The stream ends with OK when
/// the subject is gone or the process drains, and with the status when a gateway may no longer see it.
///
/// # Errors
/// When there is no value now.
fn answer<V, M>(
    receiver: watch::Receiver<Result<Arc<V>, Refusal>>,
    drain: drain::Watch,
    message: impl Fn(&V) -> Result<M, Status> + Send + 'static,
) -> Result<Answers<M>, Status>
where
    V: PartialEq + Send + Sync + 'static,
    M: Send + 'static,
{
    if let Err(refusal) = &*receiver.borrow() {
        return Err(refusal.clone().into());
    }
    let answering = Answering { receiver, drain, told: None, ended: false };
    Ok(Box::pin(stream::unfold((answering, message), |(mut answering, message)| async move {
        let next = answering.next().await?;
        Some((next.and_then(|value| message(&value)), (answering, message)))
    })))
}

struct Answering<V> {
    receiver: watch::Receiver<Result<Arc<V>, Refusal>>,
    drain: drain::Watch,
    told: Option<Arc<V>>,
    ended: bool,
}

impl<V: PartialEq> Answering<V> {
    async fn next(&mut self) -> Option<Result<Arc<V>, Status>> {
        while !self.ended {
            let now = self.receiver.borrow_and_update().clone();
            match now {
                // A value that came back to what was told before is no news.
                Ok(value) if self.told.as_ref() != Some(&value) => {
                    self.told = Some(value.clone());
                    return Some(Ok(value));
                }
                Ok(_) => {}
                Err(refusal) => {
                    self.ended = true;
                    let status = Status::from(refusal);
                    return (status.code() == Code::FailedPrecondition).then_some(Err(status));
                }
            }
            let drained = self.drain.clone().signaled();
            self.ended = tokio::select! {
                changed = self.receiver.changed() => changed.is_err(),
                _ = drained => true,
            };
        }
        None
    }
}
