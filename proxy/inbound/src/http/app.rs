//! # Clients of the application
//!
//! Job: one HTTP client for each address that the application listens on, per worker.
//! May touch: connections to the application. Callers: `http`, `sidecar`.

use crate::config::Config;
use futures::{FutureExt, future::BoxFuture};
use mesh_http::{
    BalanceParams, Balancer,
    client::{ClientParams, Connect, ConnectFailure},
    observe::Unobserved,
};
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata},
    transport::SessionProtocol,
};
use mesh_net::connect::{ConnectError, ConnectOptions};
use mesh_observe::{
    Direction, Metrics, NoTls, Tls, TransportLabels, TransportPeer, TransportSeries,
};
use mesh_stack::{
    cache::{Cache, Handle},
    io::BoxedIo,
};
use std::{convert::Infallible, net::SocketAddr, sync::Arc};

/// The clients of a worker. Unused ones leave after the idle time.
pub(crate) struct Apps {
    cache: Cache<SocketAddr, Balancer>,
    params: BalanceParams,
    connect: ConnectOptions,
    metrics: Metrics,
}

impl Apps {
    pub(crate) fn new(config: &Config, metrics: Metrics) -> Self {
        let client = ClientParams {
            http2: config.http2,
            backoff: config.backoff,
            http1_max_idle: config.http1_idle.0,
            http1_idle_timeout: config.http1_idle.1,
            ..ClientParams::default()
        };
        let params = BalanceParams {
            client,
            queue_capacity: config.queue_capacity,
            failfast: config.failfast,
            ..BalanceParams::default()
        };
        Self { cache: Cache::new(config.idle), params, connect: config.connect, metrics }
    }

    /// The client of `target`, kept while the handle is.
    pub(crate) async fn get(&self, target: SocketAddr) -> Handle<Balancer> {
        let build = || async {
            let connect = Arc::new(ConnectApp {
                options: self.connect,
                series: self.metrics.transport.series(&labels(target)),
            });
            let endpoint =
                Endpoint { addr: target, metadata: Arc::new(EndpointMetadata::default()) };
            let client = Balancer::forward(endpoint, connect, &Unobserved, self.params);
            Ok::<_, Infallible>(client)
        };
        let Ok(handle) = self.cache.get_or_build(&target, build).await;
        handle
    }
}

struct ConnectApp {
    options: ConnectOptions,
    series: TransportSeries,
}

impl Connect for ConnectApp {
    fn connect(
        &self,
        endpoint: &Endpoint,
        _: SessionProtocol,
    ) -> BoxFuture<'static, Result<BoxedIo, ConnectFailure>> {
        let (options, series, addr) = (self.options, self.series.clone(), endpoint.addr);
        async move {
            match mesh_net::connect::connect(addr, &options).await {
                Ok(io) => Ok(BoxedIo::new(series.track(io))),
                Err(ConnectError::Timeout(after)) => Err(ConnectFailure::Timeout(after)),
                Err(ConnectError::Io(error)) => Err(ConnectFailure::Io(error)),
                Err(refused @ ConnectError::Loopback(_)) => {
                    Err(ConnectFailure::Refused(refused.to_string()))
                }
            }
        }
        .boxed()
    }
}

fn labels(target: SocketAddr) -> TransportLabels {
    TransportLabels {
        direction: Direction::Inbound,
        peer: TransportPeer::Dst,
        target,
        tls: Tls::None(NoTls::Loopback),
        server: None,
        discovered: None,
    }
}
