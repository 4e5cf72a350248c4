//! # Backends on the wire
//!
//! Job: where an outbound route leads: `outbound.Backend`, both ways. Callers: `kinds`.

mod unseen;

use crate::{
    Invalid, destination,
    error::{duration, proto_duration},
    meta,
};
use linkerd2_proxy_api::{destination as api_destination, outbound as api};
use mesh_model::{
    authority::NameAddr,
    balance::{Balancing, Penalty},
    endpoint::{DEFAULT_WEIGHT, EndpointMetadata},
    outbound::{Backend, BackendKind, PeakEwma, QueuePolicy},
};
use std::{collections::BTreeMap, time::Duration};

/// What Linkerd's controller puts into every backend, and what no Linkerd proxy obeys: it says nothing.
const USUAL_QUEUE: QueuePolicy = QueuePolicy { capacity: 100, failfast: Duration::from_secs(3) };

pub(super) fn to_proto(backend: &Backend) -> api::Backend {
    use api::backend::Kind;
    let kind = match &backend.kind {
        BackendKind::Forward(endpoint) => {
            Some(Kind::Forward(destination::endpoint_to_proto(endpoint)))
        }
        BackendKind::OriginalDst(addr) => Some(Kind::Forward(api_destination::WeightedAddr {
            addr: Some((*addr).into()),
            weight: 1,
            ..Default::default()
        })),
        BackendKind::Balance { addr, balancing } => {
            Some(Kind::Balancer(balancer_to_proto(addr, balancing)))
        }
        BackendKind::Unknown => None,
    };
    let queue = backend.queue.unwrap_or(USUAL_QUEUE);
    api::Backend {
        metadata: Some(meta::to_proto(&backend.meta)),
        queue: Some(api::Queue {
            capacity: queue.capacity,
            failfast_timeout: Some(proto_duration(queue.failfast)),
        }),
        kind,
    }
}

fn balancer_to_proto(addr: &NameAddr, balancing: &Balancing) -> api::backend::BalanceP2c {
    use api::backend::{
        BalanceP2c, EndpointDiscovery,
        balance_p2c::{Load, PeakEwma, PenaltyPeakEwma},
        endpoint_discovery::{DestinationGet, Kind as Discovery},
    };
    let ewma = unseen::put(balancing);
    let default_rtt = Some(proto_duration(ewma.default_rtt));
    let decay = Some(proto_duration(ewma.decay));
    let load = match &balancing.penalty {
        None => Load::PeakEwma(PeakEwma { default_rtt, decay }),
        Some(penalty) => Load::PenaltyPeakEwma(PenaltyPeakEwma {
            default_rtt,
            decay,
            penalty: Some(proto_duration(penalty.delay)),
            max_retry_after: Some(proto_duration(penalty.max_retry_after)),
            // What Linkerd's controller sends; nobody uses it.
            penalty_decay: Some(proto_duration(Duration::from_secs(10))),
        }),
    };
    BalanceP2c {
        discovery: Some(EndpointDiscovery {
            kind: Some(Discovery::Dst(DestinationGet { path: addr.to_string() })),
        }),
        load: Some(load),
    }
}

pub(super) fn from_proto(backend: api::Backend) -> Result<Backend, Invalid> {
    use api::backend::Kind;
    let kind = match backend.kind {
        None => BackendKind::Unknown,
        Some(Kind::Forward(addr)) => forward_from_proto(addr)?,
        Some(Kind::Balancer(balancer)) => balancer_from_proto(balancer)?,
    };
    let queue = backend.queue.map(queue_from_proto).transpose()?.flatten();
    Ok(Backend { meta: meta::from_proto("backend metadata", backend.metadata)?, kind, queue })
}

/// An empty or usual queue says nothing.
fn queue_from_proto(queue: api::Queue) -> Result<Option<QueuePolicy>, Invalid> {
    if queue.capacity == 0 || queue.failfast_timeout.is_none() {
        return Ok(None);
    }
    let failfast = duration("queue failfast_timeout", queue.failfast_timeout)?;
    let queue = QueuePolicy { capacity: queue.capacity, failfast };
    Ok(Some(queue).filter(|q| *q != USUAL_QUEUE))
}

fn balancer_from_proto(balancer: api::backend::BalanceP2c) -> Result<BackendKind, Invalid> {
    use api::backend::{balance_p2c::Load, endpoint_discovery::Kind as Discovery};
    let discovery = balancer.discovery.and_then(|d| d.kind);
    let Discovery::Dst(dst) = discovery.ok_or(Invalid::Missing("backend discovery"))?;
    let addr: NameAddr = dst.path.parse().map_err(|e| Invalid::value("backend discovery", e))?;
    let (rtt, decay, penalty) = match balancer.load.ok_or(Invalid::Missing("balancer load"))? {
        Load::PeakEwma(load) => (load.default_rtt, load.decay, None),
        Load::PenaltyPeakEwma(load) => {
            let usual = Penalty::default();
            let or = |field, value: Option<prost_types::Duration>, usual| match value {
                None => Ok(usual),
                some => duration(field, some),
            };
            let penalty = Penalty {
                delay: or("balancer penalty", load.penalty, usual.delay)?,
                max_retry_after: or(
                    "balancer max_retry_after",
                    load.max_retry_after,
                    usual.max_retry_after,
                )?,
            };
            (load.default_rtt, load.decay, Some(penalty))
        }
    };
    let ewma = PeakEwma {
        default_rtt: duration("balancer default_rtt", rtt)?,
        decay: duration("balancer decay", decay)?,
    };
    let balancing = Balancing { penalty, ..unseen::take(ewma) };
    Ok(BackendKind::Balance { addr, balancing })
}

/// An address of which nothing else is said is the original destination, in plaintext.
fn forward_from_proto(addr: api_destination::WeightedAddr) -> Result<BackendKind, Invalid> {
    let weight = addr.weight;
    let endpoint = destination::endpoint_from_proto(addr, &BTreeMap::new())?;
    let bare = EndpointMetadata { weight, ..EndpointMetadata::default() };
    if weight != DEFAULT_WEIGHT && *endpoint.metadata == bare {
        return Ok(BackendKind::OriginalDst(endpoint.addr));
    }
    Ok(BackendKind::Forward(endpoint))
}
