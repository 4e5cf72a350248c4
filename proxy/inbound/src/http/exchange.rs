//! # A request that is let in
//!
//! Job: count it in the families of routes, and, once it goes to the application, of endpoints; watch its
//! response to the end with one observer for both.
//! May touch: heads, the sizes of frames. Must not touch: content. Callers: `http`.

use http::{Request, Response};
use http_body::Body as _;
use mesh_http::{
    Body, Error,
    body::{End, ObserveBody},
    respond::{grpc_of, status_of},
};
use mesh_observe::{Exchange, HttpSeries, InboundRouteSeries, RouteExchange, StreamError};

/// Where the requests of one client on one route are counted.
pub(crate) struct RequestSeries {
    pub(crate) endpoint: HttpSeries,
    pub(crate) route: InboundRouteSeries,
}

/// One request on its way.
pub(crate) struct InboundExchange {
    route: RouteExchange,
    endpoint: Option<Exchange>,
}

impl RequestSeries {
    /// Counts a request on the route, and watches its body if it has one.
    pub(crate) fn begin(&self, request: Request<Body>) -> (Request<Body>, InboundExchange) {
        let (request, route) = self.route.begin(request);
        (request, InboundExchange { route, endpoint: None })
    }
}

impl InboundExchange {
    /// The request goes to the application.
    pub(crate) fn forward(&mut self, series: &RequestSeries, request: &Request<Body>) {
        self.endpoint = Some(series.endpoint.begin(request));
    }

    /// Watches the response's body to its end.
    pub(crate) fn respond(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.head(&response);
        }
        self.route.head(&response);
        if response.body().is_end_stream() {
            self.end(End::Complete(None));
            return response;
        }
        response.map(|body| body.observed(self))
    }

    /// There is no response but this error.
    pub(crate) fn fail(self, error: &Error) {
        let status = status_of(error);
        if let Some(endpoint) = self.endpoint {
            endpoint.fail(status, StreamError::of(error));
        }
        self.route.fail(status, grpc_of(error) as u16);
    }
}

impl ObserveBody for InboundExchange {
    fn data(&mut self, len: usize) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.data(len);
        }
        self.route.data(len);
    }

    fn end(&mut self, end: End<'_>) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.end(end);
        }
        self.route.end(end);
    }
}
