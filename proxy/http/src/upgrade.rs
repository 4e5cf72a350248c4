//! # Upgrades
//!
//! Job: join the client's and the server's half of a connection that leaves HTTP (WebSocket, CONNECT).
//! May touch: both halves once HTTP has let go of them. Must not touch: what flows.
//! Callers: the HTTP/1 server (takes the client's half), the HTTP/1 client (joins), explicit CONNECT.

use crate::error::Error;
use http::Request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::sync::Arc;

/// The client's half of a possible upgrade, carried in the request's extensions.
#[derive(Clone, Debug)]
pub struct ClientHalf(Arc<Mutex<Option<OnUpgrade>>>);

/// A connection that has left HTTP.
pub type UpgradedIo = TokioIo<Upgraded>;

impl ClientHalf {
    pub(crate) fn attach<B>(request: &mut Request<B>) {
        let half = hyper::upgrade::on(&mut *request);
        request.extensions_mut().insert(Self(Arc::new(Mutex::new(Some(half)))));
    }

    /// The half, once: who takes it answers with 101 or 2xx and then awaits [`finish`].
    pub fn take<B>(request: &Request<B>) -> Option<OnUpgrade> {
        request.extensions().get::<Self>()?.0.lock().take()
    }
}

/// Waits until HTTP has let go of the connection.
///
/// # Errors
/// When the connection ends before.
pub async fn finish(half: OnUpgrade) -> Result<UpgradedIo, Error> {
    Ok(TokioIo::new(half.await?))
}

/// Joins the two halves in a task of its own; the tunnel lives until both directions have ended.
pub(crate) fn join(client: OnUpgrade, server: OnUpgrade) {
    tokio::spawn(async move {
        let joined = async {
            let (client, server) = tokio::try_join!(finish(client), finish(server))?;
            mesh_stack::io::copy(client, server).await.map_err(Error::from)
        };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "an upgraded connection ended");
        }
    });
}
