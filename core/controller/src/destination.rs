//! # `destination`
//!
//! Job: discovery and policy as one process with one set of watches.
//! May touch: flags, the gRPC ports. Must not touch: objects. Callers: `lib.rs`.

use crate::{
    args::{Line, Read},
    own::Own,
    process::{self, Process, Threads},
    watches::{self, Indexes},
};
use anyhow::Context;
use mesh_destination::{Destination, DestinationIndex};
use mesh_meshtls::{
    Credentials,
    control::{ControlAcceptor, ControlConfig},
};
use mesh_policy::{InboundIndex, OutboundIndex, serve::Policies};
use parking_lot::Mutex;
use std::{net::SocketAddr, process::ExitCode, sync::Arc};
use tokio::net::TcpListener;

/// Runs it.
///
/// # Errors
/// When it cannot start or fails.
pub(crate) fn run(line: &Line<'_>) -> anyhow::Result<ExitCode> {
    let tables = [mesh_destination::args::TABLE, mesh_policy::args::TABLE];
    let read = line.read(&tables, |reader| {
        let destination = mesh_destination::Config::read(reader);
        let policy = mesh_policy::Config::read(reader);
        Ok((destination?, policy?))
    })?;
    let (common, (destination, mut policy)) = match read {
        Read::Done(code) => return Ok(code),
        Read::Run(common, configs) => (common, configs),
    };
    // Where the policy controller's own flag is absent, the one that both mean counts.
    policy.control_plane_namespace.clone_from(&destination.controller_namespace);
    if let Some(domain) = &destination.trust_domain {
        policy.identity_domain.clone_from(domain);
    }
    let own = Own::from_env()?;
    let admin = [destination.metrics_addr, policy.admin_addr];
    process::run(common, Threads::Two, &admin, |process| serve(process, destination, policy, own))
}

async fn serve(
    process: Process,
    destination: mesh_destination::Config,
    policy: mesh_policy::Config,
    own: Option<Own>,
) -> anyhow::Result<()> {
    let (destination, policy) = (Arc::new(destination), Arc::new(policy));
    let ports = [destination.addr, policy.grpc_addr];
    let indexes = Indexes {
        destination: Arc::new(Mutex::new(DestinationIndex::new(destination.clone()))),
        inbound: Arc::new(Mutex::new(InboundIndex::new(policy.clone()))),
        outbound: Arc::new(Mutex::new(OutboundIndex::new(policy.clone()))),
    };
    let metrics = mesh_destination::metrics::Metrics::register(&process.registry)?;
    let (inbound, outbound) = (indexes.inbound.clone(), indexes.outbound.clone());
    mesh_policy::metrics::register(&process.registry, inbound.clone(), outbound.clone())?;
    let opening = process.readiness.block("the gRPC ports");
    // Watches first: their lists arrive while the certificate is fetched.
    watches::spawn(&process.client, &process.readiness, &indexes);
    let (readiness, drain) = (process.readiness.clone(), process.drain.clone());
    let lookups = Destination::new(
        destination,
        indexes.destination,
        readiness.clone(),
        drain.clone(),
        metrics,
    );
    let policies = Policies::new(policy, inbound, outbound, readiness, drain.clone());
    let credentials = certify(&process, own)?;
    let [destination_port, policy_port] = ports;
    let open = |addr| port(&process, addr, credentials.clone());
    let (first, second) = (open(destination_port).await?, open(policy_port).await?);
    drop(opening);
    tokio::try_join!(
        lookups.run(first.incoming(drain.clone())),
        policies.run(second.incoming(drain)),
    )?;
    Ok(())
}

/// Starts to get a certificate, which readiness waits for.
fn certify(process: &Process, own: Option<Own>) -> anyhow::Result<Option<Credentials>> {
    let Some(own) = own else {
        tracing::warn!("No identity is configured: the gRPC ports serve plaintext from this host");
        return Ok(None);
    };
    let credentials = own.certify(&process.pod)?;
    let (waiting, token) = (credentials.clone(), process.readiness.block("a certificate"));
    tokio::spawn(async move {
        waiting.ready().await;
        drop(token);
    });
    Ok(Some(credentials))
}

async fn port(
    process: &Process,
    addr: SocketAddr,
    credentials: Option<Credentials>,
) -> anyhow::Result<ControlAcceptor> {
    let addr = process.pod.bind(addr);
    let listener =
        TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))?;
    let plaintext_from_own = process.plaintext_from_own;
    let config = ControlConfig { plaintext_from_own, ..ControlConfig::default() };
    Ok(match credentials {
        Some(credentials) => ControlAcceptor::new(listener, credentials, config),
        None => ControlAcceptor::plaintext(listener, config),
    })
}
