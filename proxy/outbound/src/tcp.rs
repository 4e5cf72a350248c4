//! # Connections toward a target
//!
//! Job: carry one connection whose bytes are not looked at, but for the name that a TLS client asks for, to an
//! endpoint of the route that this name has.
//! May touch: two streams, a ClientHello. Must not touch: what flows. Callers: `sidecar`, `quiet`, `ingress`,
//! the gateway.

mod balance;

pub(crate) use balance::{Connected, TcpBalancer};

use crate::{backend::Backend, error::TcpError, routes::Rule, sidecar::Outbound, target::Target};
use bytes::{Bytes, BytesMut};
use mesh_meshtls::sni::{self, Peek};
use mesh_model::{identity::DnsName, outbound::Refusal};
use mesh_observe::ConnectionRouteSeries;
use mesh_stack::io::{self, BoxedIo, Io, Prefixed};

impl Outbound {
    /// Connects to an endpoint of `target` and carries bytes both ways until both have ended.
    ///
    /// # Errors
    /// When no endpoint can be reached, the policy forbids it, or a side breaks.
    pub async fn tcp(&self, target: &Target, io: impl Io) -> Result<(), TcpError> {
        self.carry(target, None, io).await
    }

    /// As [`Self::tcp`], for a client that opens TLS of its own.
    ///
    /// # Errors
    /// Also when the client does not say in time whom it wants.
    pub(crate) async fn tls(&self, target: &Target, mut io: impl Io) -> Result<(), TcpError> {
        let mut seen = BytesMut::new();
        let limit = self.parts().config.detect_timeout;
        let peek = tokio::time::timeout(limit, sni::detect(&mut io, &mut seen)).await;
        let name = match peek {
            Err(_) => return Err(TcpError::NoSni("in time")),
            Ok(peek) => match peek? {
                Peek::Sni(name) => name,
                Peek::NoSni => return Err(TcpError::NoSni("in its ClientHello")),
                Peek::NotTls | Peek::Incomplete => return Err(TcpError::NoSni("as it is not TLS")),
            },
        };
        self.carry(target, Some(&name), Prefixed::new(seen.freeze(), io)).await
    }

    async fn carry(
        &self,
        target: &Target,
        name: Option<&DnsName>,
        io: impl Io,
    ) -> Result<(), TcpError> {
        let opened = self.open(target, name).await?;
        opened.join(io).await
    }

    /// A connection to an endpoint of the route that the name has, or why there is none.
    ///
    /// # Errors
    /// When there is no route.
    pub(crate) async fn open(
        &self,
        target: &Target,
        name: Option<&DnsName>,
    ) -> Result<Opened, TcpError> {
        let active = target.active_arc();
        let route = active.connections.by_name(name.map(DnsName::as_str));
        let rule = route.and_then(|route| route.rule(0)).ok_or(TcpError::NoRoute)?;
        let connected = connect(rule).await;
        // The routes are not held: an eviction of the target shall not wait for this connection.
        Ok(Opened { connected, series: rule.series.clone() })
    }
}

/// A connection to an endpoint for one of a client; it counts when the two are joined.
pub(crate) struct Opened {
    pub(crate) connected: Result<Connected, TcpError>,
    series: ConnectionRouteSeries,
}

impl Opened {
    /// With bytes that the endpoint has said already.
    pub(crate) fn said(self, said: Bytes) -> Self {
        let before =
            |Connected { io, load }| Connected { io: BoxedIo::new(Prefixed::new(said, io)), load };
        Self { connected: self.connected.map(before), ..self }
    }

    /// Carries bytes both ways until both have ended. The load counts the connection until then.
    pub(crate) async fn join(self, io: impl Io) -> Result<(), TcpError> {
        self.series.opened();
        let carried = match self.connected {
            Err(error) => Err(error),
            Ok(Connected { io: endpoint, load: _load }) => {
                io::copy(io, endpoint).await.map_err(TcpError::Io)
            }
        };
        self.series.closed(carried.as_ref().err().map_or("", TcpError::route_label));
        carried
    }
}

async fn connect(rule: &Rule<ConnectionRouteSeries>) -> Result<Connected, TcpError> {
    refuse(rule.rule.refusal.as_ref(), || rule.describe())?;
    let part = rule.choice.pick(Backend::takes_tcp).ok_or(TcpError::NoRoute)?;
    refuse(part.spec.refusal.as_ref(), || part.backend.meta().name().to_owned())?;
    part.backend.tcp().ok_or(TcpError::InvalidBackend)?.connect().await
}

fn refuse(refusal: Option<&Refusal>, by: impl FnOnce() -> String) -> Result<(), TcpError> {
    match refusal {
        None => Ok(()),
        Some(Refusal::Forbidden) => Err(TcpError::Forbidden(by())),
        Some(Refusal::Invalid(reason)) => Err(TcpError::InvalidPolicy(reason.clone())),
    }
}
