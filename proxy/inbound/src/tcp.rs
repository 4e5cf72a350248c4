//! # Bytes to the application
//!
//! Job: forward a connection that is not HTTP, for as long as its policy lets it in.
//! May touch: connections to the application. Must not touch: the bytes. Callers: sidecar, direct.

use crate::{connection::Connection, error::Error, policy::Following};
use mesh_model::inbound::{Denied, ServerPolicy};
use mesh_observe::{AccessLabels, Direction, NoTls, Tls, TransportLabels, TransportPeer};
use mesh_stack::io::Io;
use std::future::Future;

/// Authorises and forwards; returns when both directions have ended, or when a change of policy shuts the
/// client out. Open connections outlive a drain.
pub(crate) async fn forward(connection: &Connection, io: impl Io) -> Result<(), Error> {
    let Connection { shared, target, .. } = connection;
    while_allowed(connection, async {
        let app = mesh_net::connect::connect(*target, &shared.config.connect).await?;
        let labels = TransportLabels {
            direction: Direction::Inbound,
            peer: TransportPeer::Dst,
            target: *target,
            tls: Tls::None(NoTls::Loopback),
            server: None,
            discovered: None,
        };
        let app = shared.metrics.transport.series(&labels).track(app);
        mesh_net::io::copy(io, app).await?;
        Ok(())
    })
    .await
}

/// Does `work` on behalf of the connection as a whole, if its port's policy lets the client in, and as long
/// as it does.
pub(crate) async fn while_allowed(
    connection: &Connection,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let mut policy = connection.policy.follow();
    authorize(connection, policy.active())?;
    tokio::select! {
        done = work => done,
        ended = until_denied(connection, &mut policy) => Err(ended.into()),
    }
}

/// Obeys the policy of the port for a new connection.
fn authorize(connection: &Connection, policy: &ServerPolicy) -> Result<(), Denied> {
    let access = connection.shared.metrics.access.tcp();
    let tls = connection.tls_label();
    let labels = labels(connection, &tls, policy);
    match policy.authorize(connection.client, &connection.tls) {
        Ok(permit) => {
            access.allowed(labels, permit.authorization()).incr();
            if permit.audited() {
                tracing::info!(client = %connection.client, tls = ?connection.tls, target = %connection.target, "Connection allowed by audit");
            }
            Ok(())
        }
        Err(denied) => {
            access.denied(labels).incr();
            Err(denied)
        }
    }
}

/// Judges anew after each change of policy; returns when the client is not let in any more.
async fn until_denied(connection: &Connection, policy: &mut Following) -> Denied {
    loop {
        policy.changed().await;
        if let Err(denied) = policy.active().authorize(connection.client, &connection.tls) {
            let tls = connection.tls_label();
            let labels = labels(connection, &tls, policy.active());
            connection.shared.metrics.access.terminated(labels);
            tracing::info!(client = %connection.client, target = %connection.target, server = denied.server.name(), "Connection terminated: policy has changed");
            return denied;
        }
    }
}

fn labels<'a>(connection: &Connection, tls: &'a Tls, policy: &'a ServerPolicy) -> AccessLabels<'a> {
    AccessLabels { target: connection.target, tls, server: &policy.meta, route: None }
}
