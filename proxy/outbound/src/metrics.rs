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
use mesh_model::endpoint::Endpoint;
use mesh_observe::{
    DetectResult, Direction, Exchange, HttpSeries, Metrics, NoTls, OutboundLabels, StreamError,
    Tls, Tracked, TransportLabels, TransportPeer,
};
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
