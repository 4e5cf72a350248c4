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
use tokio::sync::mpsc;

/// The client's half of a possible upgrade, carried in the request's extensions.
#[derive(Clone, Debug)]
pub struct ClientHalf(Arc<Mutex<Option<ClientUpgrade>>>);

/// A client that waits for its connection to leave HTTP. The server that took the request counts as
/// busy while this lives, so that a drain waits for tunnels.
#[derive(Debug)]
pub struct ClientUpgrade {
    on: OnUpgrade,
    hold: mpsc::Sender<()>,
}

/// A connection that has left HTTP.
pub type UpgradedIo = TokioIo<Upgraded>;

impl ClientHalf {
    pub(crate) fn attach<B>(request: &mut Request<B>, hold: mpsc::Sender<()>) {
        let half = ClientUpgrade { on: hyper::upgrade::on(&mut *request), hold };
        request.extensions_mut().insert(Self(Arc::new(Mutex::new(Some(half)))));
    }

    /// The half, once: who takes it answers with 101 or 2xx and then awaits [`finish`].
    pub fn take<B>(request: &Request<B>) -> Option<ClientUpgrade> {
        request.extensions().get::<Self>()?.0.lock().take()
    }
}

/// Waits until HTTP has let go of the connection. What keeps a drain waiting for it is then the caller's.
///
/// # Errors
/// When the connection ends before.
pub async fn finish(half: ClientUpgrade) -> Result<UpgradedIo, Error> {
    Ok(TokioIo::new(half.on.await?))
}

/// Joins the two halves in a task of its own; the tunnel lives until both directions have ended.
pub(crate) fn join(client: ClientUpgrade, server: OnUpgrade) {
    tokio::spawn(async move {
        let ClientUpgrade { on, hold } = client;
        let joined = async {
            let (client, server) = tokio::try_join!(on, server)?;
            let (client, server) = (TokioIo::new(client), TokioIo::new(server));
            mesh_stack::io::copy(client, server).await.map_err(Error::from)
        };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "an upgraded connection ended");
        }
        drop(hold);
    });
}
