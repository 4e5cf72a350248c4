//! # One connection
//!
//! Job: what is known of an accepted connection once TLS is dealt with.
//! May touch: values. Callers: sidecar, direct, http, tcp.

use crate::{policy::PortPolicy, sidecar::Shared};
use mesh_model::{identity::DnsName, inbound::ClientTls};
use mesh_observe::{NoTls, Tls};
use std::{net::SocketAddr, sync::Arc};

/// An accepted connection that is about to be served.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    /// Who calls.
    pub(crate) client: SocketAddr,
    /// Where the application listens; of a named connection, the gateway's own address.
    pub(crate) target: SocketAddr,
    /// TLS that ended here.
    pub(crate) tls: ClientTls,
    /// The application's TLS, or why there is none.
    pub(crate) other: OtherTls,
    /// Policy of the target's port.
    pub(crate) policy: PortPolicy,
}

/// TLS state of a connection whose TLS did not end here.
#[derive(Clone, Debug)]
pub(crate) enum OtherTls {
    /// TLS for the application.
    Application(DnsName),
    /// No TLS.
    None(NoTls),
}

impl Connection {
    /// TLS state for metrics.
    pub(crate) fn tls_label(&self) -> Tls {
        match (&self.tls, &self.other) {
            (ClientTls::Mesh { client }, _) => Tls::Client(client.clone()),
            (ClientTls::Plaintext, OtherTls::Application(name)) => Tls::Opaque(name.clone()),
            (ClientTls::Plaintext, OtherTls::None(reason)) => Tls::None(*reason),
        }
    }
}
