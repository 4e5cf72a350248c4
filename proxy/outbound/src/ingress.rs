//! # Ingress mode
//!
//! Job: serve an ingress controller, whose connections go to endpoints but whose requests name the Service
//! that they are for: `l5d-dst-override` chooses the target of each request.
//! May touch: redirected connections, one request header. Must not touch: endpoints. Callers: `sidecar`.
//!
//! An ingress that passes that header through from its clients is an open relay: it has to strip it.

use crate::{error::TcpError, sidecar::Outbound};
use http::{Request, Response, StatusCode, uri};
use mesh_http::{
    Body, Error, Service,
    detect::Detected,
    normalize,
    respond::{GrpcCode, Problem},
};
use mesh_model::authority::Authority;
use mesh_process::drain;
use mesh_stack::io::Io;
use std::{net::SocketAddr, num::NonZeroU16};

const OVERRIDE: &str = "l5d-dst-override";
/// The port of a name that has none.
const HTTP: NonZeroU16 = NonZeroU16::new(80).expect("80 is not 0");

/// Serves the requests of one connection.
#[derive(Clone)]
pub(crate) struct Ingress {
    outbound: Outbound,
    /// Where the connection wanted to go.
    original: SocketAddr,
}

impl Ingress {
    pub(crate) fn new(outbound: Outbound, original: SocketAddr) -> Self {
        Self { outbound, original }
    }

    /// Any HTTP is routed by request; other bytes go where they wanted to.
    pub(crate) async fn serve(self, io: impl Io, drain: drain::Watch) -> Result<(), TcpError> {
        let (detected, io) = self.outbound.sniff(io).await?;
        let Detected::Http(version) = detected else {
            let target = self.outbound.target(&Authority::Socket(self.original)).await?;
            return self.outbound.tcp(&target, io).await;
        };
        let outbound = self.outbound.clone();
        let params = &outbound.parts().config.server;
        // The clone keeps the drain waiting until this connection has ended.
        let _held = drain.clone();
        let draining = async { drop(drain.signaled().await) };
        Ok(mesh_http::serve(io, version, params, self, draining).await?)
    }

    /// The target that the request names, else where the connection wanted to go. The name is for this
    /// proxy alone.
    fn authority(&self, request: &mut Request<Body>) -> Result<Authority, Problem> {
        let Some(named) = request.headers_mut().remove(OVERRIDE) else {
            return Ok(Authority::Socket(self.original));
        };
        let text = String::from_utf8_lossy(named.as_bytes());
        Authority::parse(&text, HTTP).map_err(|error| {
            let message = format!("{OVERRIDE}: {error}: write <host>:<port>");
            Problem::new(StatusCode::BAD_REQUEST, GrpcCode::InvalidArgument, message)
        })
    }
}

impl Service for Ingress {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let authority = self.authority(&mut request)?;
        let original = || uri::Authority::try_from(self.original.to_string()).ok();
        normalize::normalize(&mut request, original)?;
        let unknown = |why: &str| {
            self.outbound.parts().metrics.errors.outbound_http("unexpected");
            let message = format!("ingress-mode routing requires discovery: {authority}: {why}");
            Problem::new(StatusCode::BAD_GATEWAY, GrpcCode::Unavailable, message)
        };
        let target = self.outbound.target(&authority).await;
        let target = target.map_err(|error| unknown(&error.to_string()))?;
        if !target.active().discovered {
            return Err(unknown("the control plane does not know it").into());
        }
        self.outbound.send(&target, &mut request).await
    }
}
