//! # Parts of the stacks
//!
//! Job: `stack_create_total`, `stack_drop_total`: how many of each part have been made and are gone; the
//! difference is what lives.
//! May touch: labels. Callers: inbound and outbound, where a part is made.

use crate::{
    labels::Direction,
    series::{Counter, Family, LabelSet, Registrar},
};

/// The families of parts.
#[derive(Clone, Debug)]
pub struct StackMetrics {
    created: Family<Counter>,
    dropped: Family<Counter>,
}

/// A kind of part. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct StackLayer {
    created: Counter,
    dropped: Counter,
}

/// Held by a part as long as it lives.
#[derive(Debug)]
pub struct StackPart(Counter);

impl StackMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            created: registrar.counters("stack_create_total", "Parts of a stack that were made."),
            dropped: registrar.counters("stack_drop_total", "Parts of a stack that are gone."),
        }
    }

    /// The counts of one kind of part, such as `http` and `balancer`.
    pub fn layer(&self, direction: Direction, protocol: &str, name: &str) -> StackLayer {
        let labels = LabelSet::default()
            .with("direction", direction.as_str())
            .with("protocol", protocol)
            .with("name", name);
        StackLayer { created: self.created.get(&labels), dropped: self.dropped.get(&labels) }
    }
}

impl StackLayer {
    /// A part is made.
    pub fn part(&self) -> StackPart {
        self.created.incr();
        StackPart(self.dropped.clone())
    }
}

impl Drop for StackPart {
    fn drop(&mut self) {
        self.0.incr();
    }
}
