//! # Routes of service profiles
//!
//! Job: `route_request_total` and its like (a request counts once, however often it is sent),
//! `route_actual_*` (each attempt), `route_retryable_total`. Inbound has the first only.
//! May touch: what the routes tell. Must not touch: their choice. Callers: outbound, inbound.

use crate::{
    http::{HttpMetrics, HttpSeries},
    labels::Direction,
    series::{Counter, Family, LabelSet, Registrar},
};
use mesh_model::endpoint::Labels;

/// The families.
#[derive(Clone, Debug)]
pub struct ProfileRouteMetrics {
    logical: HttpMetrics,
    actual: HttpMetrics,
    retryable: Family<Counter>,
}

/// The series of one route.
#[derive(Clone, Debug)]
pub struct ProfileRouteSeries {
    /// Requests as the application sees them.
    pub logical: HttpSeries,
    /// Attempts.
    pub actual: HttpSeries,
    retryable: [Counter; 2],
}

/// What became of a failure that may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retryable {
    /// It is tried again.
    Retried,
    /// The budget is used up.
    NoBudget,
}

impl ProfileRouteMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            logical: HttpMetrics::new(
                registrar,
                ["route_request_total", "route_response_total", "route_response_latency_ms"],
            ),
            actual: HttpMetrics::new(
                registrar,
                [
                    "route_actual_request_total",
                    "route_actual_response_total",
                    "route_actual_response_latency_ms",
                ],
            ),
            retryable: registrar.counters("route_retryable_total", "Failures that may be retried."),
        }
    }

    /// The series of a route of the profile `dst`, with the route's own labels.
    pub fn series(&self, dst: &str, labels: &Labels) -> ProfileRouteSeries {
        let set = route(Direction::Outbound, dst, labels);
        let retryable = |skipped: &str| self.retryable.get(&set.clone().with("skipped", skipped));
        ProfileRouteSeries {
            retryable: [retryable(""), retryable("no_budget")],
            logical: self.logical.series(set.clone()),
            actual: self.actual.series(set),
        }
    }

    /// The series of a route of the profile `dst` for requests that come in: nothing is sent twice.
    pub fn inbound(&self, dst: &str, labels: &Labels) -> HttpSeries {
        self.logical.series(route(Direction::Inbound, dst, labels))
    }
}

fn route(direction: Direction, dst: &str, labels: &Labels) -> LabelSet {
    let mut set = LabelSet::default().with("direction", direction.as_str()).with("dst", dst);
    for (name, value) in labels.iter() {
        set.push(format!("rt_{name}"), value);
    }
    set
}

impl ProfileRouteSeries {
    /// Counts a failure that may be tried again.
    pub fn retryable(&self, what: Retryable) {
        let [retried, no_budget] = &self.retryable;
        match what {
            Retryable::Retried => retried.incr(),
            Retryable::NoBudget => no_budget.incr(),
        }
    }
}
