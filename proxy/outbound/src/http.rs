//! # HTTP toward a target
//!
//! Job: one request: limit, choose a rule, set the headers of the mesh, send by the rule or by the profile.
//! May touch: requests and responses. Must not touch: sockets. Callers: `sidecar`, `explicit`,
//! `ingress`, the gateway.
//!
//! A request is handed down by reference, and is taken where it is sent, which leaves an empty one in its place: it is
//! large, and each of the many futures on its way would else have room for it, and move it.

mod filters;
mod rule;

use self::rule::HttpRule;
use crate::{
    backend::Backend,
    config::Routing,
    sidecar::Outbound,
    target::{Active, Target},
};
use futures::TryFutureExt;
use http::{HeaderValue, Request, Response, uri};
use mesh_http::{
    Body, Error, Service, client::PeerAsksToClose, headers, normalize, respond::CloseConnection,
};
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::Endpoint,
    route::RequestView,
};
use mesh_observe::{
    Direction,
    trace::{OpenSpan, SpanKind},
};
use mesh_stack::cache::Handle;

/// Sends requests to one target.
#[derive(Clone)]
pub struct HttpService {
    outbound: Outbound,
    target: Handle<Target>,
    default_authority: Option<uri::Authority>,
}

impl HttpService {
    pub(crate) fn new(outbound: Outbound, target: Handle<Target>) -> Self {
        let default_authority = authority_of(target.authority());
        Self { outbound, target, default_authority }
    }
}

impl Service for HttpService {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        // A function that is `async` as a whole would have room for its argument twice.
        let Self { outbound, target, default_authority } = self;
        async move {
            normalize::normalize(&mut request, || default_authority.clone())?;
            outbound.send(target, &mut request).await
        }
    }
}

impl Outbound {
    /// Sends a request whose target has an authority.
    pub(crate) fn send(
        &self,
        target: &Target,
        request: &mut Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        self.send_now(target, request).map_err(move |error| {
            self.parts().metrics.errors.outbound_http(error.kind());
            error.at(format_args!("logical service {}", target.authority()))
        })
    }

    async fn send_now(
        &self,
        target: &Target,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let _place = self.in_flight().enter()?;
        let active = target.active_arc();
        let Chosen { rule, hop, span } = self.choose(&active, request)?;
        let sent = match &active.profile {
            None => rule.send(&hop, request).await,
            Some(profile) => {
                let (hop, request) = (&hop, std::mem::take(request));
                let send = |request, tried| rule.deliver(hop, request, tried);
                let available = || rule.choice.is_available(Backend::takes_http);
                // Boxed: other requests shall not make room for it.
                Box::pin(profile.send(request, send, available)).await
            }
        };
        if let (Some(span), Ok(response)) = (span, &sent) {
            span.end(response.status());
        }
        sent
    }

    /// Chooses the rule for a request, and sets the headers of the mesh.
    fn choose<'a>(
        &self,
        active: &'a Active,
        request: &mut Request<Body>,
    ) -> Result<Chosen<'a>, Error> {
        let span = self.server_span(request);
        let router = active.http(request.version());
        let chosen = router.choose(|| RequestView::of(request));
        let rule = chosen.and_then(|c| c.route.rule(c.rule)).ok_or(Error::NoRoute)?;
        let hop = Hop::take(request, active.canonical.as_ref());
        Ok(Chosen { rule, hop, span })
    }

    /// The sidecar's side as a server. A gateway's is inbound.
    fn server_span(&self, request: &mut Request<Body>) -> Option<OpenSpan> {
        let parts = self.parts();
        match parts.config.routing {
            Routing::Sidecar => parts.metrics.span(Direction::Outbound, SpanKind::Server, request),
            Routing::Gateway => None,
        }
    }
}

/// By which rule a request goes.
struct Chosen<'a> {
    rule: &'a HttpRule,
    hop: Hop,
    span: Option<OpenSpan>,
}

/// What a request carries from hop to hop, and where it may go.
struct Hop {
    /// Identity that the application demands of the server.
    required: Option<HeaderValue>,
}

impl Hop {
    /// Takes out what is for this proxy, and sets what is for the next.
    fn take(request: &mut Request<Body>, canonical: Option<&HeaderValue>) -> Self {
        let fields = request.headers_mut();
        let mut required = None;
        if headers::any_of_mesh(fields) {
            fields.remove(headers::CLIENT_ID);
            required = fields.remove(headers::REQUIRE_ID);
        }
        if let Some(canonical) = canonical {
            fields.insert(headers::DST_CANONICAL, canonical.clone());
        }
        Self { required }
    }

    /// Makes a request fit for the endpoint that was chosen.
    fn prepare(&self, endpoint: &Endpoint, request: &mut Request<Body>) -> Result<(), Error> {
        require(self.required.as_ref(), endpoint)?;
        if let Some(name) = &endpoint.metadata.authority_override {
            override_authority(name, request);
        }
        Ok(())
    }

    /// A peer's wish to close the client's connection is followed where the peer is the only one.
    fn respect_close(&self, response: &mut Response<Body>, forward: bool) {
        let asked = response.extensions_mut().remove::<PeerAsksToClose>().is_some();
        if asked && forward {
            response.extensions_mut().insert(CloseConnection);
        }
    }
}

/// `l5d-require-id`: the request goes to this identity or nowhere.
fn require(required: Option<&HeaderValue>, endpoint: &Endpoint) -> Result<(), Error> {
    let Some(required) = required else { return Ok(()) };
    let found = endpoint.metadata.tls.as_ref().map_or("none", |tls| tls.id.as_str());
    if required.as_bytes() == found.as_bytes() {
        return Ok(());
    }
    let required = String::from_utf8_lossy(required.as_bytes()).into_owned();
    Err(Error::RequiredId { required, found: found.to_owned() })
}

/// The request is for a Service of another cluster: its name there is the authority, and what named it here
/// goes.
fn override_authority(name: &NameAddr, request: &mut Request<Body>) {
    if let Some(authority) = authority_of(&Authority::Name(name.clone())) {
        normalize::set_authority(request, authority);
    }
    request.headers_mut().remove(::http::header::HOST);
    request.headers_mut().remove(headers::DST_CANONICAL);
}

/// As an HTTP authority; port 80 is left out of names.
fn authority_of(authority: &Authority) -> Option<uri::Authority> {
    let text = match authority {
        Authority::Name(name) if name.port.get() == 80 => name.name.to_string(),
        other => other.to_string(),
    };
    text.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mesh_model::endpoint::{EndpointMetadata, TlsTarget};
    use std::sync::Arc;

    fn endpoint(id: Option<&str>) -> Endpoint {
        let tls =
            id.map(|id| TlsTarget { id: id.parse().unwrap(), server_name: id.parse().unwrap() });
        let metadata = EndpointMetadata { tls, ..EndpointMetadata::default() };
        Endpoint { addr: "10.0.0.1:1".parse().unwrap(), metadata: Arc::new(metadata) }
    }

    // proves: OUT-7
    #[test]
    fn a_required_identity_must_be_the_endpoints() {
        let value = HeaderValue::from_static("a.b");
        assert!(require(None, &endpoint(None)).is_ok());
        assert!(require(Some(&value), &endpoint(Some("a.b"))).is_ok());
        for other in [endpoint(None), endpoint(Some("c.d"))] {
            let error = require(Some(&value), &other).unwrap_err();
            assert!(error.to_string().starts_with("required id a.b; found "), "{error}");
        }
    }

    // proves: OUT-8
    #[test]
    fn behind_a_gateway_the_remote_name_is_the_authority() {
        let mut request = Request::builder()
            .uri("http://web-east.shop/a?b")
            .header("host", "web-east.shop")
            .header("l5d-dst-canonical", "web-east.shop.svc.cluster.local:80")
            .body(Body::empty())
            .unwrap();
        override_authority(&"web.shop.svc.cluster.local:80".parse().unwrap(), &mut request);
        assert_eq!(request.uri(), "http://web.shop.svc.cluster.local/a?b");
        assert!(request.headers().is_empty());
        override_authority(&"web.shop.svc.cluster.local:81".parse().unwrap(), &mut request);
        assert_eq!(request.uri(), "http://web.shop.svc.cluster.local:81/a?b");
    }
}
