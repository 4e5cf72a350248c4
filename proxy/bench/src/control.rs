//! # A control plane from a file
//!
//! Job: answer the mesh gRPC API (identity, destination, both policy APIs) from one JSON file, so that a
//! proxy can be driven without Kubernetes; on demand with endpoints that come and go, policies that
//! change and short certificates.
//! May touch: one listener. Must not touch: the proxies. Callers: the bench, the soak.

mod config;
mod policy;

pub(crate) use config::{Config, Endpoint, Service};

use crate::pki::Authority;
use anyhow::Result;
use config::Found;
use futures::{Stream, StreamExt, stream::BoxStream};
use linkerd2_proxy_api::{
    destination::{
        self as dst,
        destination_server::{Destination, DestinationServer},
    },
    identity::{
        self as id,
        identity_server::{Identity, IdentityServer},
    },
    inbound::{
        self as inb,
        inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
    },
    outbound::{
        self as out,
        outbound_policies_server::{OutboundPolicies, OutboundPoliciesServer},
    },
};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::IntervalStream;
use tonic::{Request, Response, Status};

struct State {
    config: Config,
    authority: Authority,
}

#[derive(Clone)]
struct Api(Arc<State>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Serves until the process ends.
pub(crate) async fn serve(config: &Path, pki: &Path, listen: SocketAddr) -> Result<()> {
    let config = Config::read(config)?;
    let api = Api(Arc::new(State { config, authority: Authority::load(pki)? }));
    tonic::transport::Server::builder()
        .add_service(IdentityServer::new(api.clone()))
        .add_service(DestinationServer::new(api.clone()))
        .add_service(OutboundPoliciesServer::new(api.clone()))
        .add_service(InboundServerPoliciesServer::new(api))
        .serve(listen)
        .await?;
    Ok(())
}

/// The first answer now; then, if there is a period, the next each time it has passed.
fn answers<T: Send + 'static>(
    period: Option<Duration>,
    mut answer: impl FnMut(u64) -> T + Send + 'static,
) -> Answers<T> {
    let Some(period) = period else {
        let once = futures::stream::once(std::future::ready(Ok(answer(0))));
        return once.chain(futures::stream::pending()).boxed();
    };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let numbered = IntervalStream::new(ticks).enumerate();
    numbered.map(move |(n, _)| Ok(answer(n as u64))).boxed()
}

impl Api {
    fn find(&self, path: &str) -> Result<Found, Status> {
        self.0.config.find(path).ok_or_else(|| Status::not_found(format!("no service `{path}`")))
    }
}

#[tonic::async_trait]
impl Identity for Api {
    async fn certify(
        &self,
        request: Request<id::CertifyRequest>,
    ) -> Result<Response<id::CertifyResponse>, Status> {
        let request = request.into_inner();
        let lifetime = Duration::from_secs(self.0.config.leaf_seconds);
        let authority = &self.0.authority;
        let leaf = authority
            .certify(&request.identity, &request.certificate_signing_request, lifetime)
            .map_err(|e| Status::invalid_argument(format!("{e:#}")))?;
        Ok(Response::new(id::CertifyResponse {
            leaf_certificate: leaf.leaf.to_vec(),
            intermediate_certificates: leaf.intermediates.iter().map(|c| c.to_vec()).collect(),
            valid_until: Some(leaf.not_after.into()),
        }))
    }
}

#[tonic::async_trait]
impl Destination for Api {
    type GetStream = Answers<dst::Update>;

    async fn get(
        &self,
        request: Request<dst::GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let found = self.find(&request.into_inner().path)?;
        let Some(period) = self.0.config.churn() else {
            return Ok(Response::new(answers(None, move |_| found.all())));
        };
        let first = futures::stream::once(std::future::ready(Ok(found.all())));
        let changes = churn(found, period);
        Ok(Response::new(first.chain(changes).boxed()))
    }

    type GetProfileStream = Answers<dst::DestinationProfile>;

    async fn get_profile(
        &self,
        request: Request<dst::GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        // An address that is no Service has an empty profile.
        let profile = match self.find(&request.into_inner().path) {
            Ok(found) => found.profile(),
            Err(_) => dst::DestinationProfile::default(),
        };
        Ok(Response::new(answers(None, move |_| profile.clone())))
    }
}

/// One endpoint leaves and the one before it returns at each tick; the others stay.
fn churn(
    found: Found,
    period: Duration,
) -> impl Stream<Item = Result<dst::Update, Status>> + Send + 'static {
    let count = found.service.endpoints.len() as u64;
    let ticks = answers(Some(period), |n| n);
    ticks.map(move |n| {
        n.map(|n| match n % 2 {
            0 => found.remove((n / 2 % count) as usize),
            _ => found.add((n / 2 % count) as usize),
        })
    })
}

#[tonic::async_trait]
impl OutboundPolicies for Api {
    async fn get(
        &self,
        request: Request<out::TrafficSpec>,
    ) -> Result<Response<out::OutboundPolicy>, Status> {
        let found = self.find(&policy::target(request.into_inner())?)?;
        Ok(Response::new(policy::outbound(&found, 0)))
    }

    type WatchStream = Answers<out::OutboundPolicy>;

    async fn watch(
        &self,
        request: Request<out::TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let found = self.find(&policy::target(request.into_inner())?)?;
        let period = self.0.config.policy();
        Ok(Response::new(answers(period, move |n| policy::outbound(&found, n))))
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Api {
    async fn get_port(&self, _: Request<inb::PortSpec>) -> Result<Response<inb::Server>, Status> {
        Ok(Response::new(policy::inbound(0)))
    }

    type WatchPortStream = Answers<inb::Server>;

    async fn watch_port(
        &self,
        _: Request<inb::PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        Ok(Response::new(answers(self.0.config.policy(), policy::inbound)))
    }
}
