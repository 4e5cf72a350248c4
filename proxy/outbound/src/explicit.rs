//! # Explicit mode
//!
//! Job: serve clients that name this proxy: absolute-form and CONNECT requests of HTTP/1.1, and HTTP/2 with
//! `:authority`; the target is told per request.
//! May touch: accepted connections, request targets. Must not touch: endpoints. Callers: `sidecar`.

use crate::{
    error::{DiscoverError, TcpError},
    metrics,
    sidecar::Outbound,
    target::Target,
};
use http::{Method, Request, Response, StatusCode};
use mesh_http::{
    Body, Error, Service,
    detect::Detected,
    normalize::AbsoluteForm,
    respond::{GrpcCode, Problem},
    upgrade::{self, ClientHalf},
};
use mesh_model::authority::{Authority, NameAddr};
use mesh_net::listen::Accepted;
use mesh_process::drain;
use mesh_stack::cache::Handle;
use parking_lot::Mutex;
use std::{num::NonZeroU16, sync::Arc};

/// The port of a target that names none.
const HTTP: NonZeroU16 = NonZeroU16::new(80).expect("80 is not 0");

/// Serves explicit clients.
#[derive(Clone)]
pub(crate) struct Explicit {
    outbound: Outbound,
}

/// Serves one connection; remembers the target of the last request.
#[derive(Clone)]
struct Connection {
    outbound: Outbound,
    last: Arc<Mutex<Option<Handle<Target>>>>,
    drain: drain::Watch,
}

impl Explicit {
    pub(crate) fn new(outbound: Outbound) -> Self {
        Self { outbound }
    }

    pub(crate) async fn serve(
        &self,
        accepted: Accepted,
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        let outbound = &self.outbound;
        if !outbound.is_at_home(accepted.peer) {
            return Err(TcpError::Refused("only this Pod and its host may use this proxy"));
        }
        let io = metrics::track_src(&outbound.parts().metrics, accepted.io, accepted.local);
        let (detected, io) = outbound.sniff(io).await?;
        let Detected::Http(version) = detected else {
            return Err(TcpError::Refused("only HTTP can name its target to this proxy"));
        };
        let connection =
            Connection { outbound: outbound.clone(), last: Arc::default(), drain: drain.clone() };
        let params = &outbound.parts().config.server;
        let _held = drain.clone();
        let draining = async { drop(drain.signaled().await) };
        Ok(mesh_http::serve(io, version, params, connection, draining).await?)
    }
}

impl Service for Connection {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let authority = self.authority(&request).map_err(Error::from)?;
        let target = self.target(&authority).await.map_err(|e| {
            self.outbound.parts().metrics.errors.outbound_http("unexpected");
            Error::from(problem(&authority, &e))
        })?;
        if request.method() == Method::CONNECT {
            return self.tunnel(request, target);
        }
        // The absolute form was for this proxy; the server gets the origin form (RFC 9112, 3.2.1).
        request.extensions_mut().remove::<AbsoluteForm>();
        request.headers_mut().remove(::http::header::PROXY_AUTHORIZATION);
        self.outbound.send(&target, &mut request).await
    }
}

impl Connection {
    /// The target that the request names: `svc.ns`, or a name in the cluster's Service zone.
    fn authority(&self, request: &Request<Body>) -> Result<Authority, Problem> {
        let named = request.uri().authority().ok_or_else(|| {
            refusal("this is a proxy: send the request with an absolute target (curl -x)")
        })?;
        let not_a_service = |why: &dyn std::fmt::Display| refusal(&format!("{named}: {why}"));
        let text = named.as_str().rsplit_once('@').map_or(named.as_str(), |(_, host)| host);
        let domain = &self.outbound.parts().config.cluster_domain;
        match Authority::parse(text, HTTP) {
            Err(error) => Err(not_a_service(&error)),
            Ok(Authority::Socket(_)) => Err(not_a_service(&"only names of Services are served")),
            Ok(Authority::Name(name)) => {
                in_zone(name, domain.as_str()).map(Authority::Name).ok_or_else(|| {
                    not_a_service(&format!("neither <svc>.<ns> nor under svc.{domain}"))
                })
            }
        }
    }

    /// The target of the last request if it is the same and still there, else what discovery says. A refusal
    /// is told at once and not kept: a Service that appears is served at once.
    async fn target(&self, authority: &Authority) -> Result<Handle<Target>, DiscoverError> {
        let last = self.last.lock().clone();
        if let Some(last) = last.filter(|t| t.authority() == authority && t.gone().is_none()) {
            return Ok(last);
        }
        let found = self.outbound.target(authority).await?;
        *self.last.lock() = Some(found.clone());
        Ok(found)
    }

    /// CONNECT: a tunnel of bytes that is carried as an accepted connection to the target would be.
    fn tunnel(
        &self,
        request: Request<Body>,
        target: Handle<Target>,
    ) -> Result<Response<Body>, Error> {
        let client = ClientHalf::take(&request)
            .ok_or(Error::Malformed("CONNECT is served over HTTP/1.1 only"))?;
        let (outbound, drain) = (self.outbound.clone(), self.drain.clone());
        tokio::spawn(async move {
            let carried = async {
                let io = upgrade::finish(client).await?;
                outbound.proxy(target, io, drain).await
            };
            if let Err(error) = carried.await {
                tracing::info!(%error, "a tunnel ended");
            }
        });
        Ok(Response::new(Body::empty()))
    }
}

/// The name in full.
fn in_zone(name: NameAddr, domain: &str) -> Option<NameAddr> {
    if name.service_target(domain).is_some() {
        return Some(name);
    }
    if name.name.labels().count() != 2 {
        return None;
    }
    let full = format!("{}.svc.{domain}", name.name).parse().ok()?;
    Some(NameAddr { name: full, port: name.port })
}

fn refusal(message: &str) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, GrpcCode::Unavailable, message).with_body()
}

fn problem(authority: &Authority, error: &DiscoverError) -> Problem {
    refusal(&format!("{error}: {authority}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // proves: OUT-4
    #[test]
    fn names_are_completed_in_the_zone_of_services() {
        let of = |t: &str| in_zone(t.parse().unwrap(), "cluster.local").map(|n| n.to_string());
        let full = Some("echo-east.demo.svc.cluster.local:80".to_owned());
        assert_eq!(of("echo-east.demo:80"), full);
        assert_eq!(of("echo-east.demo.svc.cluster.local:80"), full);
        assert_eq!(
            of("p0.echo.demo.svc.cluster.local:81"),
            Some("p0.echo.demo.svc.cluster.local:81".into())
        );
        for outside in ["echo:80", "a.b.c:80", "example.svc.other:80", "svc.cluster.local:80"] {
            assert_eq!(of(outside), None, "{outside}");
        }
    }
}
