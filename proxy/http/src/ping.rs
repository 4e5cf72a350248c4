//! # PINGs of HTTP/2
//!
//! Job: find out that a peer is gone, by PINGs that it does not answer.
//! May touch: one connection's PINGs. Must not touch: its streams. Callers: HTTP/2 client and server.

use h2::{Ping, PingPong};
use mesh_model::endpoint::KeepAlive;
use std::time::Duration;
use tokio::sync::Notify;

/// Time to answer where no keep-alive is set and somebody asks for a PING.
const PATIENCE: Duration = Duration::from_secs(3);

/// Completes when a PING goes unanswered. `poke` asks for one at once; `is_idle` tells whether no stream
/// is open.
pub(crate) async fn unanswered(
    mut ping: PingPong,
    keep_alive: Option<KeepAlive>,
    poke: &Notify,
    is_idle: impl Fn() -> bool,
) {
    loop {
        let interval = async {
            match keep_alive {
                None => std::future::pending().await,
                Some(k) => tokio::time::sleep(k.interval).await,
            }
        };
        tokio::select! {
            () = interval => {
                if is_idle() && !keep_alive.is_some_and(|k| k.while_idle) {
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
