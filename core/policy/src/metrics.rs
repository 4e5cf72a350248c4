//! # Metrics of the policy controller
//!
//! Job: sizes of the indexes, read when scraped.
//! May touch: the indexes through their locks. Must not touch: a global registry. Callers: `controller`.

use crate::index::{inbound::InboundIndex, outbound::OutboundIndex};
use parking_lot::Mutex;
use prometheus::{
    IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use std::{collections::BTreeMap, sync::Arc};

/// Kinds of the inbound index, as their families are named.
const INBOUND_KINDS: [&str; 5] =
    ["pod", "server", "authorization_policy", "meshtls_authentication", "network_authentication"];

/// Registers `inbound_index_*_index_size` and `outbound_index_service_index_size`.
///
/// # Errors
/// When one is registered already.
pub fn register(
    registry: &Registry,
    inbound: Arc<Mutex<InboundIndex>>,
    outbound: Arc<Mutex<OutboundIndex>>,
) -> Result<(), prometheus::Error> {
    let mut kinds = BTreeMap::new();
    for kind in INBOUND_KINDS {
        let name = format!("inbound_index_{kind}_index_size");
        let family = IntGaugeVec::new(Opts::new(name, "Objects in the index"), &["namespace"])?;
        kinds.insert(kind, family);
    }
    let services = IntGauge::new("outbound_index_service_index_size", "Services in the index")?;
    registry.register(Box::new(Sizes { inbound, outbound, kinds, services }))
}

struct Sizes {
    inbound: Arc<Mutex<InboundIndex>>,
    outbound: Arc<Mutex<OutboundIndex>>,
    kinds: BTreeMap<&'static str, IntGaugeVec>,
    services: IntGauge,
}

impl Collector for Sizes {
    fn desc(&self) -> Vec<&Desc> {
        self.kinds.values().flat_map(Collector::desc).chain(self.services.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sizes = self.inbound.lock().sizes();
        self.kinds.values().for_each(IntGaugeVec::reset);
        for ((kind, namespace), size) in sizes {
            if let Some(family) = self.kinds.get(kind) {
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                family.with_label_values(&[&namespace]).set(size);
            }
        }
        let services = self.outbound.lock().service_names().len();
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.kinds.values().flat_map(Collector::collect).chain(self.services.collect()).collect()
    }
}
