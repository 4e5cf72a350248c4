//! # Metrics of the gateway
//!
//! Job: count what is refused, by reason. May touch: labels. Callers: `forward`.

use crate::refusal::Refusal;
use mesh_observe::{Counter, Family, LabelSet, Registrar};

/// The gateway's own family. Cheap to clone; one for all workers.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    refusals: Family<Counter>,
}

impl GatewayMetrics {
    /// Registers the family.
    pub fn new(registrar: &Registrar) -> Self {
        let help =
            "Connections and requests for named targets that the gateway refused, by reason.";
        Self { refusals: registrar.counters("gateway_refusals_total", help) }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals.get(&LabelSet::default().with("reason", refusal.reason())).incr();
    }
}
