//! # Carrying on
//!
//! Job: what happens to a connection whose transport header names a target:
//!
//! 1. the name lies under the gateway's suffixes, and the client is not the gateway itself (`open`)
//! 2. a request has not passed here before (`forwarded.rs`)
//! 3. discovery knows the name and does not refuse it; checked at every use, so that a withdrawn export
//!    ends at once on open connections too (`Gateway::onward`). A no is asked again for a moment: the other
//!    cluster may have heard of a new export before us (`Gateway::found`)
//! 4. onward through the outbound half: profile, balancer, mesh TLS to the Pod
//!
//! May touch: heads of requests. Must not touch: bodies, sockets. Callers: the inbound half.

use crate::{forwarded, metrics::GatewayMetrics, refusal::Refusal};
use arc_swap::ArcSwapOption;
use http::{HeaderValue, Request, Response, Version, header::HOST};
use mesh_http::{Body, Error, Service};
use mesh_inbound::gateway;
use mesh_model::{
    authority::{Authority, NameAddr},
    identity::Identity,
};
use mesh_outbound::{HttpService, Outbound, Target, TcpError};
use mesh_process::settings::form::Suffix;
use mesh_stack::{cache::Handle, io::BoxedIo};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

/// Settings of the gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names outside are refused without asking anybody.
    pub suffixes: Vec<Suffix>,
    /// The gateway's own identity.
    pub id: Identity,
    /// How long a name that is refused is asked for again before its request hears of it.
    pub patience: Duration,
}

/// Good for [`Config::patience`]: an export reaches this cluster's gateway through its control plane, and the
/// clients through the mirror of theirs; neither waits for the other.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// More requests than this a worker do not wait for a name: they are refused at once.
const MOST_WAITING: usize = 1000;

/// A worker's gateway.
#[derive(Clone)]
pub struct Gateway {
    config: Arc<Config>,
    outbound: Outbound,
    metrics: GatewayMetrics,
    waiting: Arc<Semaphore>,
}

/// A named connection: what it wants, and what was found so far.
#[derive(Clone)]
pub struct Route(Arc<Inner>);

struct Inner {
    target: NameAddr,
    /// `name[:port]`, as it is told onward.
    host: String,
    client: Identity,
    refused: Option<Refusal>,
    found: ArcSwapOption<Found>,
}

struct Found {
    target: Handle<Target>,
    requests: HttpService,
}

impl Gateway {
    /// A gateway that sends through `outbound`, whose discovery says what is exported.
    pub fn new(config: Config, outbound: Outbound, metrics: GatewayMetrics) -> Self {
        let waiting = Arc::new(Semaphore::new(MOST_WAITING));
        Self { config: Arc::new(config), outbound, metrics, waiting }
    }

    fn refuse(&self, route: &Route, refusal: &Refusal) -> Error {
        self.metrics.refused(refusal);
        let Inner { target, client, .. } = &*route.0;
        tracing::info!(%target, %client, %refusal, "Refused");
        refusal.into()
    }

    /// What serves the target, asked for again while it may still become known; or why nothing does.
    async fn found(&self, route: &Route) -> Result<Arc<Found>, Error> {
        let mut found = self.onward(route).await;
        let too_early = |found: &Result<_, Refusal>| {
            matches!(found, Err(Refusal::NotExported | Refusal::Missing))
        };
        if too_early(&found)
            && let Ok(_one) = self.waiting.try_acquire()
        {
            let deadline = Instant::now() + self.config.patience;
            let mut pause = Duration::from_millis(5);
            while too_early(&found) && Instant::now() < deadline {
                sleep_until(deadline.min(Instant::now() + pause)).await;
                pause *= 2;
                found = self.onward(route).await;
            }
        }
        found.map_err(|refusal| self.refuse(route, &refusal))
    }

    /// What serves the target now.
    async fn onward(&self, route: &Route) -> Result<Arc<Found>, Refusal> {
        if let Some(refusal) = &route.0.refused {
            return Err(refusal.clone());
        }
        if let Some(found) = route.0.found.load_full().filter(|f| f.target.gone().is_none()) {
            return Ok(found);
        }
        // Dropped before asking again, so that a refused name is not kept alive by those who want it.
        route.0.found.store(None);
        let target = self.outbound.target(&Authority::Name(route.0.target.clone())).await?;
        if let Some(gone) = target.gone() {
            return Err(gone.into());
        }
        let requests = self.outbound.http(target.clone());
        let found = Arc::new(Found { target, requests });
        route.0.found.store(Some(found.clone()));
        Ok(found)
    }
}

impl gateway::Gateway for Gateway {
    type Route = Route;

    async fn open(&self, target: &NameAddr, client: &Identity) -> Route {
        let known = self.config.suffixes.iter().any(|suffix| suffix.contains(&target.name));
        let refused = match known {
            _ if *client == self.config.id => Some(Refusal::OwnClient),
            false => Some(Refusal::Domain),
            true => None,
        };
        let host = match target.port.get() {
            80 => target.name.to_string(),
            _ => target.to_string(),
        };
        Route(Arc::new(Inner {
            target: target.clone(),
            host,
            client: client.clone(),
            refused,
            found: ArcSwapOption::empty(),
        }))
    }

    async fn request(
        &self,
        route: &Route,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let id = &self.config.id;
        if forwarded::passed(request.headers(), id) {
            return Err(self.refuse(route, &Refusal::Forwarded));
        }
        let found = self.found(route).await?;
        let Inner { host, client, .. } = &*route.0;
        forwarded::append(request.headers_mut(), id, client, host);
        if request.version() != Version::HTTP_2
            && let Ok(value) = HeaderValue::from_str(host)
        {
            // The sender took it away when it set the authority.
            request.headers_mut().insert(HOST, value);
        }
        found.requests.call(request).await
    }

    async fn tunnel(&self, route: &Route, io: BoxedIo) -> Result<(), Error> {
        let found = self.found(route).await?;
        match self.outbound.tcp(&found.target, io).await {
            Ok(()) => Ok(()),
            Err(TcpError::Discover(error)) => Err(self.refuse(route, &error.into())),
            Err(TcpError::FailFast(error)) => Err(error.into()),
            Err(TcpError::LoadShed(error)) => Err(error.into()),
            Err(TcpError::Io(error)) => Err(error.into()),
            Err(TcpError::Http(error)) => Err(error),
            Err(error @ TcpError::Connect { .. }) => {
                Err(Error::Io(std::io::Error::other(error.to_string())))
            }
            Err(
                error @ (TcpError::NoRoute
                | TcpError::NoSni(_)
                | TcpError::InvalidBackend
                | TcpError::Forbidden(_)
                | TcpError::InvalidPolicy(_)
                | TcpError::Refused(_)),
            ) => Err(Error::Unexpected(error.to_string())),
        }
    }
}
