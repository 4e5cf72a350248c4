//! # Bytes to the application
//!
//! Job: forward a connection that is not HTTP, after its policy has let it in.
//! May touch: connections to the application. Must not touch: the bytes. Callers: sidecar, direct.

use crate::{connection::Connection, error::Error};
use mesh_observe::{AccessLabels, Direction, NoTls, Tls, TransportLabels, TransportPeer};
use mesh_stack::io::Io;

/// Authorises and forwards; returns when both directions have ended. Open connections outlive a drain.
pub(crate) async fn forward(connection: &Connection, io: impl Io) -> Result<(), Error> {
    let Connection { shared, target, .. } = connection;
    authorize(connection)?;
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
}

/// Obeys the policy of the port for the connection as a whole.
pub(crate) fn authorize(connection: &Connection) -> Result<(), Error> {
    let policy = connection.policy.now();
    let access = connection.shared.metrics.access.tcp();
    let labels = AccessLabels {
        target: connection.target,
        tls: &connection.tls_label(),
        server: &policy.meta,
        route: None,
    };
    match policy.authorize(connection.client, &connection.tls) {
        Ok(permit) => {
            access.allowed(labels, permit.authorization()).incr();
            if permit.audited() {
                tracing::info!(client = %connection.client, target = %connection.target, "Connection allowed by audit");
            }
            Ok(())
        }
        Err(denied) => {
            access.denied(labels);
            Err(denied.into())
        }
    }
}
