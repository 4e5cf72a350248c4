//! # Observation
//!
//! Job: the hooks through which metrics learn of requests to endpoints. Labels are resolved once an
//! endpoint, so that a request costs increments only.
//! May touch: values. Must not touch: a metrics library. Callers: the balancer; `observe` implements.

use crate::{Body, error::Error};
use http::{Request, Response};
use mesh_model::endpoint::Endpoint;
use mesh_stack::meter::{Meter, Unmetered};
use std::sync::Arc;

/// Makes the observer of an endpoint when it joins a balancer.
pub trait Observe: Send + Sync + 'static {
    /// The observer of requests to this endpoint.
    fn endpoint(&self, endpoint: &Endpoint) -> Arc<dyn ObserveEndpoint>;

    /// The meter of the balancer itself.
    fn meter(&self) -> Arc<dyn Meter> {
        Arc::new(Unmetered)
    }
}

/// Observes the requests to one endpoint.
pub trait ObserveEndpoint: Send + Sync + 'static {
    /// A request is about to be sent. `None` if nothing is to be observed.
    fn request(&self, request: &Request<Body>) -> Option<Box<dyn ObserveResponse>>;
}

/// Observes one request from sending to the end of its response.
pub trait ObserveResponse: Send + 'static {
    /// The response's head has come; its body may be given an observer.
    fn respond(self: Box<Self>, response: Response<Body>) -> Response<Body>;
    /// No response came.
    fn failed(self: Box<Self>, error: &Error);
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observe for Unobserved {
    fn endpoint(&self, _: &Endpoint) -> Arc<dyn ObserveEndpoint> {
        Arc::new(Self)
    }
}

impl ObserveEndpoint for Unobserved {
    fn request(&self, _: &Request<Body>) -> Option<Box<dyn ObserveResponse>> {
        None
    }
}
