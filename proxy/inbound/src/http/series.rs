//! # Series of a connection
//!
//! Job: keep the handles of the few label sets that one connection meets, so that a request only adds.
//! May touch: metric handles. Callers: `http`.

use crate::connection::Connection;
use mesh_model::inbound::Permit;
use mesh_observe::{AccessLabels, Counter, HttpSeries, InboundLabels, Tls};
use parking_lot::Mutex;

pub(crate) struct SeriesCache {
    tls: Tls,
    /// A connection meets one or two; a change of policy starts over.
    known: Mutex<Vec<Known>>,
}

struct Known {
    permit: Permit,
    allowed: Counter,
    series: HttpSeries,
}

const MOST: usize = 8;

impl SeriesCache {
    pub(crate) fn new(connection: &Connection) -> Self {
        Self { tls: connection.tls_label(), known: Mutex::default() }
    }

    /// Counts a request as allowed and gives the series for its response.
    pub(crate) fn admit(&self, connection: &Connection, permit: Permit) -> HttpSeries {
        if permit.audited() {
            tracing::info!(client = %connection.client, target = %connection.target, "Request allowed by audit");
        }
        let mut known = self.known.lock();
        if let Some(found) = known.iter().find(|k| k.permit == permit) {
            found.allowed.incr();
            return found.series.clone();
        }
        if known.len() >= MOST {
            known.clear();
        }
        let new = self.resolve(connection, permit);
        new.allowed.incr();
        let series = new.series.clone();
        known.push(new);
        series
    }

    fn resolve(&self, connection: &Connection, permit: Permit) -> Known {
        let metrics = &connection.shared.metrics;
        let labels = AccessLabels {
            target: connection.target,
            tls: &self.tls,
            server: permit.server(),
            route: permit.route(),
        };
        let allowed = metrics.access.http().allowed(labels, permit.authorization());
        let series = metrics.http.inbound(&InboundLabels {
            target: connection.target,
            tls: self.tls.clone(),
            server: permit.server().clone(),
            server_port: connection.target.port(),
            route: permit.route().cloned(),
            authorization: Some(permit.authorization().clone()),
        });
        Known { permit, allowed, series }
    }
}
