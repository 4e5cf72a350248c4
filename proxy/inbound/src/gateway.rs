//! # The seam to the gateway
//!
//! Job: what inbound asks of a gateway when a peer's transport header names a target.
//! May touch: types. Callers: `direct` asks, the gateway room answers.

use http::{Request, Response};
use mesh_http::{Body, Error};
use mesh_model::{authority::NameAddr, identity::Identity};
use mesh_stack::io::BoxedIo;
use std::future::Future;

/// Carries named connections on. Inbound has authenticated the client and obeyed the policy of its own
/// port before each of these calls.
pub trait Gateway: Clone + Send + Sync + 'static {
    /// What was decided for a connection; whether it still holds is the gateway's to check at each use.
    type Route: Clone + Send + Sync + 'static;

    /// A peer wants `target`. Bounded in time. A refusal is part of the route, so that it can be told in
    /// the protocol that follows.
    fn open(
        &self,
        target: &NameAddr,
        client: &Identity,
    ) -> impl Future<Output = Self::Route> + Send;

    /// A request on such a connection.
    fn request(
        &self,
        route: &Self::Route,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;

    /// The bytes of such a connection without requests, until both directions have ended.
    fn tunnel(
        &self,
        route: &Self::Route,
        io: BoxedIo,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A proxy that is no gateway: named connections are refused before any of this is asked.
#[derive(Clone, Debug)]
pub enum NoGateway {}

impl Gateway for NoGateway {
    type Route = NoGateway;

    async fn open(&self, _: &NameAddr, _: &Identity) -> NoGateway {
        match *self {}
    }

    async fn request(&self, _: &NoGateway, _: Request<Body>) -> Result<Response<Body>, Error> {
        match *self {}
    }

    async fn tunnel(&self, _: &NoGateway, _: BoxedIo) -> Result<(), Error> {
        match *self {}
    }
}
