//! # A balancer's view of an endpoint
//!
//! Job: its client and its breaker as one member of the set.
//! May touch: an endpoint client. Must not touch: other endpoints. Callers: the balancer.

use crate::{
    accrual::{Breaker, Ticket},
    client::{ConnectFailure, EndpointClient, LaneOf, Readiness, Shared},
    error::Error,
    observe::ObserveEndpoint,
};
use mesh_model::endpoint::Endpoint;
use mesh_stack::balance::Member;
use std::{net::SocketAddr, sync::Arc};
use tokio::time::Instant;

pub(super) struct Peer {
    pub(super) client: Arc<EndpointClient>,
    breaker: Option<Arc<Breaker>>,
}

/// Another request was quicker to be the probe.
pub(super) struct Refused;

impl Peer {
    pub(super) fn new(
        endpoint: Endpoint,
        observe: Arc<dyn ObserveEndpoint>,
        shared: Arc<Shared>,
        breaker: Option<Arc<Breaker>>,
    ) -> Self {
        Self { client: EndpointClient::new(endpoint, observe, shared), breaker }
    }

    /// Lets a request pass the breaker, if there is one.
    pub(super) fn admit(&self) -> Result<Option<Ticket>, Refused> {
        match &self.breaker {
            None => Ok(None),
            Some(breaker) => breaker.admit(Instant::now()).map(Some).ok_or(Refused),
        }
    }

    /// Why a request cannot be sent, if the last attempt to connect has told.
    pub(super) fn hopeless(&self, of: &LaneOf) -> Option<Error> {
        match self.client.readiness(self.client.lane(of)) {
            Readiness::Down(failure) => {
                Some(Error::Connect(failure).at_endpoint(self.client.endpoint.addr))
            }
            Readiness::Ready | Readiness::Pending => None,
        }
    }

    /// What the last attempt to connect met, if it failed.
    pub(super) fn failure(&self, of: &LaneOf) -> Option<(SocketAddr, Arc<ConnectFailure>)> {
        let failure = self.client.failure(self.client.lane(of))?;
        Some((self.client.endpoint.addr, failure))
    }

    fn passes(&self, now: Instant) -> bool {
        self.breaker.as_ref().is_none_or(|breaker| breaker.takes(now))
    }
}

impl Member for Peer {
    type Ask = LaneOf;

    fn endpoint(&self) -> &Endpoint {
        &self.client.endpoint
    }

    fn takes(self: &Arc<Self>, of: &LaneOf, now: Instant) -> bool {
        let lane = self.client.lane(of);
        // Asked first: an endpoint that is broken is kept connected all the same.
        matches!(self.client.readiness(lane), Readiness::Ready) && self.passes(now)
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.passes(now) && self.client.is_ready()
    }

    fn resumes(&self) -> Option<Instant> {
        self.breaker.as_ref()?.resumes()
    }

    fn demand(&self) {
        self.client.demand();
    }

    fn reset_backoff(&self) {
        self.client.reset_backoff();
    }

    fn withdraw(&self) {
        self.client.withdraw();
    }
}
