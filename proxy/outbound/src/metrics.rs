//! # Metrics
//!
//! Job: what outbound tells the metric families, with labels resolved once a connection or endpoint.
//! May touch: `observe`. Must not touch: decisions. Callers: everything here.

use mesh_http::{
    Body, Error,
    detect::{Detected, HttpVersion},
    observe::{Observe, ObserveEndpoint, ObserveResponse},
    respond,
};
use mesh_model::{endpoint::Endpoint, meta::Meta};
use mesh_observe::{
    DetectResult, Direction, Exchange, HttpSeries, LabelSet, Metrics, NoTls, OutboundLabels,
    StreamError, Tls, Tracked, TransportLabels, TransportPeer, target_ref,
};
use mesh_stack::meter::Meter;
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;

/// Observes the requests that go to one backend.
pub(crate) struct BackendObserver {
    pub(crate) metrics: Metrics,
    pub(crate) authority: String,
    pub(crate) own: BTreeSet<IpAddr>,
    pub(crate) meter: Arc<dyn Meter>,
}

/// Labels of the balancers of one backend.
pub(crate) struct BalancerLabels<'a> {
    pub(crate) parent: (&'a Meta, u16),
    pub(crate) backend: &'a Meta,
    /// The name whose endpoints are balanced.
    pub(crate) concrete: &'a str,
}

impl BalancerLabels<'_> {
    pub(crate) fn http(&self, metrics: &Metrics, failfast: Duration) -> Arc<dyn Meter> {
        Arc::new(metrics.http_balancers.meter(self.set(), failfast))
    }

    pub(crate) fn tcp(&self, metrics: &Metrics, tls: bool, failfast: Duration) -> Arc<dyn Meter> {
        let families = if tls { &metrics.tls_balancers } else { &metrics.tcp_balancers };
        let labels = self.set().with("logical", self.concrete).with("concrete", self.concrete);
        Arc::new(families.meter(labels, failfast))
    }

    fn set(&self) -> LabelSet {
        let mut labels = LabelSet::default();
        target_ref(&mut labels, "parent", self.parent.0, self.parent.1);
        target_ref(&mut labels, "backend", self.backend, 0);
        labels
    }
}

struct EndpointObserver(HttpSeries);

struct RequestObserver(Exchange);

impl Observe for BackendObserver {
    fn endpoint(&self, endpoint: &Endpoint) -> Arc<dyn ObserveEndpoint> {
        Arc::new(EndpointObserver(self.metrics.http.outbound(&OutboundLabels {
            target: endpoint.addr,
            tls: tls_of(endpoint, self.own.contains(&endpoint.addr.ip())),
            authority: Some(self.authority.clone()),
            discovered: endpoint.metadata.labels.clone(),
        })))
    }

    fn meter(&self) -> Arc<dyn Meter> {
        self.meter.clone()
    }
}

impl ObserveEndpoint for EndpointObserver {
    fn request(&self, request: &::http::Request<Body>) -> Option<Box<dyn ObserveResponse>> {
        Some(Box::new(RequestObserver(self.0.begin(request))))
    }
}

impl ObserveResponse for RequestObserver {
    fn respond(self: Box<Self>, response: ::http::Response<Body>) -> ::http::Response<Body> {
        self.0.respond(response)
    }

    fn failed(self: Box<Self>, error: &Error) {
        let status = respond::status_of(error);
        self.0.fail(status, StreamError::of(error));
    }
}

/// Counts a connection that we opened.
pub(crate) fn track_dst(
    metrics: &Metrics,
    io: TcpStream,
    endpoint: &Endpoint,
    own: bool,
) -> Tracked<TcpStream> {
    let labels = TransportLabels {
        direction: Direction::Outbound,
        peer: TransportPeer::Dst,
        target: endpoint.addr,
        tls: tls_of(endpoint, own),
        server: None,
        discovered: Some(endpoint.metadata.labels.clone()),
    };
    metrics.transport.series(&labels).track(io)
}

/// Counts a connection of the application.
pub(crate) fn track_src(
    metrics: &Metrics,
    io: TcpStream,
    target: SocketAddr,
) -> Tracked<TcpStream> {
    let labels = TransportLabels {
        direction: Direction::Outbound,
        peer: TransportPeer::Src,
        target,
        tls: Tls::None(NoTls::Loopback),
        server: None,
        discovered: None,
    };
    metrics.transport.series(&labels).track(io)
}

/// Counts a detection.
pub(crate) fn detected<I>(metrics: &Metrics, result: &io::Result<(Detected, I)>, took: Duration) {
    let result = match result {
        Err(_) => DetectResult::Error,
        Ok((Detected::Http(HttpVersion::Http1), _)) => DetectResult::Http1,
        Ok((Detected::Http(HttpVersion::Http2), _)) => DetectResult::Http2,
        Ok((Detected::NotHttp, _)) => DetectResult::NotHttp,
        Ok((Detected::Timeout, _)) => DetectResult::ReadTimeout,
    };
    metrics.detect.detected(Direction::Outbound, result, took);
}

fn tls_of(endpoint: &Endpoint, own: bool) -> Tls {
    match &endpoint.metadata.tls {
        Some(tls) => Tls::Server(tls.id.clone()),
        None if own => Tls::None(NoTls::Loopback),
        None => Tls::None(NoTls::NotDiscovered),
    }
}
