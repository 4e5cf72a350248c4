//! # A request that is let in
//!
//! Job: count it in the families of routes, and, once it goes to the application, of endpoints and of
//! profiles; watch its response to the end with one observer for all.
//! May touch: heads, the sizes of frames. Must not touch: content. Callers: `http`.

use crate::profiles::{Asked, OnRoute};
use http::{Request, Response};
use http_body::Body as _;
use mesh_http::{
    Body, Error,
    body::{End, ObserveBody},
    respond::{grpc_of, status_of},
};
use mesh_model::authority::NameAddr;
use mesh_observe::{
    Exchange, HttpMetrics, HttpSeries, InboundLabels, InboundRouteSeries, RouteExchange,
    StreamError,
};
use parking_lot::Mutex;

/// Where the requests of one client on one route are counted.
pub(crate) struct RequestSeries {
    pub(crate) endpoint: EndpointSeries,
    pub(crate) route: InboundRouteSeries,
}

/// Where requests to the application are counted.
pub(crate) enum EndpointSeries {
    /// All alike.
    One(HttpSeries),
    /// By the name that they are for.
    Named(Box<Named>),
}

/// Series by name.
pub(crate) struct Named {
    pub(crate) metrics: HttpMetrics,
    pub(crate) labels: InboundLabels,
    /// The one that was used last.
    pub(crate) last: Mutex<Option<(Option<NameAddr>, HttpSeries)>>,
}

/// One request on its way.
pub(crate) struct InboundExchange {
    route: RouteExchange,
    /// Of the endpoint, and of the profile's route with it.
    endpoint: Option<Exchange>,
}

impl RequestSeries {
    /// Counts a request on the route, and watches its body if it has one.
    pub(crate) fn begin(&self, request: &mut Request<Body>) -> InboundExchange {
        InboundExchange { route: self.route.begin(request), endpoint: None }
    }
}

impl EndpointSeries {
    fn of(&self, asked: Option<&Asked>) -> HttpSeries {
        let Named { metrics, labels, last } = match self {
            Self::One(series) => return series.clone(),
            Self::Named(named) => &**named,
        };
        let name = asked.and_then(Asked::name);
        let mut last = last.lock();
        if let Some((_, series)) = last.as_ref().filter(|(of, _)| of.as_ref() == name) {
            return series.clone();
        }
        let authority = name.map(NameAddr::to_string);
        let series = metrics.inbound(&InboundLabels { authority, ..labels.clone() });
        *last = Some((name.cloned(), series.clone()));
        series
    }
}

impl InboundExchange {
    /// The request goes to the application.
    pub(crate) fn forward(
        &mut self,
        series: &RequestSeries,
        asked: Option<&Asked>,
        request: &Request<Body>,
    ) {
        let endpoint = series.endpoint.of(asked);
        self.endpoint = Some(match asked.and_then(Asked::routes) {
            None => endpoint.begin(request),
            Some(routes) => {
                let OnRoute { series, classify } = routes.of(request);
                endpoint.begin_judged(classify).also(series)
            }
        });
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
