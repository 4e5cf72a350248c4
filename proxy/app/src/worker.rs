//! # Workers
//!
//! Job: the threads that carry traffic, each with a runtime, stacks and connections of its own; all share
//! the bound sockets.
//! May touch: threads. Must not touch: settings beyond its configs. Callers: `proxy`.

use crate::start::StartError;
use mesh_gateway::{Gateway, GatewayMetrics};
use mesh_inbound::{Inbound, Policies};
use mesh_meshtls::Credentials;
use mesh_net::listen::Bound;
use mesh_observe::Metrics;
use mesh_outbound::{Discover, Entry, Outbound};
use mesh_process::{drain, tasks};
use std::{io, sync::Arc, thread::JoinHandle};
use tokio::sync::{mpsc, watch};

/// What every worker is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) inbound: mesh_inbound::Config,
    pub(crate) outbound: mesh_outbound::Config,
    pub(crate) entry: Entry,
    pub(crate) policies: Policies,
    pub(crate) discover: Arc<dyn Discover>,
    pub(crate) gateway: Option<GatewayParts>,
    pub(crate) credentials: Credentials,
    pub(crate) metrics: Metrics,
    pub(crate) inbound_socket: Arc<Bound>,
    pub(crate) outbound_sockets: Arc<[Bound]>,
}

/// What makes a worker a gateway's.
#[derive(Clone)]
pub(crate) struct GatewayParts {
    pub(crate) config: mesh_gateway::Config,
    pub(crate) outbound: mesh_outbound::Config,
    pub(crate) discover: Arc<dyn Discover>,
    pub(crate) metrics: GatewayMetrics,
}

/// Starts a worker. It accepts once there is a certificate, stops with the drain, and ends with `over`;
/// its end is told, whatever the cause.
pub(crate) fn spawn(
    number: usize,
    parts: Parts,
    drain: drain::Watch,
    over: watch::Receiver<bool>,
    ended: mpsc::UnboundedSender<usize>,
) -> Result<JoinHandle<()>, StartError> {
    let runtime = runtime().map_err(StartError::Thread)?;
    parts.metrics.runtimes.add(runtime.handle().clone());
    let body = move || {
        let _ended = Ended(number, ended);
        if let Err(error) = runtime.block_on(work(parts, drain, over)) {
            tracing::error!(worker = number, %error, "Worker cannot listen");
        }
        // Tasks that outlive the grace period are not waited for.
        runtime.shutdown_background();
    };
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(body)
        .map_err(StartError::Thread)
}

/// Tells that a worker has ended, also by a panic.
struct Ended(usize, mpsc::UnboundedSender<usize>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody listens once the drain has begun.
        let _ = self.1.send(self.0);
    }
}

/// A runtime for one thread.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    // Blocking work is rare: name resolution by files, a snapshot.
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()
}

async fn work(
    parts: Parts,
    drain: drain::Watch,
    mut over: watch::Receiver<bool>,
) -> io::Result<()> {
    let inbound = Arc::new(parts.inbound_socket.listener()?);
    let outbound = parts.outbound_sockets.iter().map(|bound| bound.listener().map(Arc::new));
    let outbound: Vec<_> = outbound.collect::<io::Result<_>>()?;
    // Connections that come before the first certificate wait in the kernel.
    tokio::select! {
        () = parts.credentials.ready() => {}
        _ = drain.clone().signaled() => return Ok(()),
    }
    let (stack, draining) = (parts.inbound(), drain.clone());
    tokio::spawn(tasks::keep("inbound accept", move || {
        stack.clone().run(inbound.clone(), draining.clone())
    }));
    let stack = parts.sending(parts.outbound.clone(), parts.discover.clone());
    for listener in outbound {
        let stack = stack.clone();
        let (entry, draining) = (parts.entry, drain.clone());
        tokio::spawn(tasks::keep("outbound accept", move || {
            stack.clone().run(listener.clone(), entry, draining.clone())
        }));
    }
    drop((parts, drain, stack));
    // An error means that whoever tells the end is gone.
    let _ = over.wait_for(|over| *over).await;
    Ok(())
}

impl Parts {
    fn inbound(&self) -> Inbound<Gateway> {
        let gateway = self.gateway.as_ref().map(|parts| {
            let outbound = self.sending(parts.outbound.clone(), parts.discover.clone());
            Gateway::new(parts.config.clone(), outbound, parts.metrics.clone())
        });
        Inbound::new(
            self.inbound.clone(),
            self.policies.clone(),
            self.credentials.clone(),
            self.metrics.clone(),
            gateway,
        )
    }

    fn sending(&self, config: mesh_outbound::Config, discover: Arc<dyn Discover>) -> Outbound {
        let secure = Arc::new(self.credentials.clone());
        Outbound::new(config, discover, secure, self.metrics.clone())
    }
}
