//! # The proxy's own admin port
//!
//! Job: serve a connection to the admin port as one to an application: TLS if it is offered to us, HTTP of
//! either version, the port's policy; the answers come from a service in this process.
//! May touch: accepted connections. Must not touch: the answers. Callers: the wiring.

use crate::{
    error::Error,
    gateway::Gateway,
    http,
    sidecar::{Inbound, authority_of},
};
use mesh_http::{
    Service,
    detect::{Detected, HttpVersion},
};
use mesh_model::inbound::ClientTls;
use mesh_net::listen::Accepted;
use mesh_observe::InboundErrorLabels;
use mesh_process::drain;
use std::time::Duration;

/// Longest wait for TLS or for a request; probes are quick.
pub const ADMIN_DETECT_TIMEOUT: Duration = Duration::from_secs(1);

impl<G: Gateway> Inbound<G> {
    /// Serves one connection to the admin port with `service`.
    pub async fn serve_admin(self, accepted: Accepted, service: impl Service, drain: drain::Watch) {
        let (client, target) = (accepted.peer, accepted.local);
        if let Err(error) = self.clone().admin(accepted, service, drain).await {
            if let Some(label) = error.label() {
                let labels = InboundErrorLabels { target, server: None };
                self.shared.metrics.errors.inbound_tcp(label, labels);
            }
            tracing::debug!(%client, %error, "Admin connection ended");
        }
    }

    async fn admin(
        self,
        accepted: Accepted,
        service: impl Service,
        drain: drain::Watch,
    ) -> Result<(), Error> {
        let target = accepted.local;
        let Some((connection, io)) = self.secure(accepted, target).await? else { return Ok(()) };
        let meshed = matches!(connection.tls, ClientTls::Mesh { .. });
        let (detected, io) = mesh_http::detect::detect(io, ADMIN_DETECT_TIMEOUT).await?;
        let version = match detected {
            Detected::Http(version) => version,
            Detected::Timeout if meshed => HttpVersion::Http2,
            Detected::Timeout => HttpVersion::Http1,
            Detected::NotHttp => return Ok(()),
        };
        http::serve(connection, None, service, authority_of(target), version, io, drain).await
    }
}
